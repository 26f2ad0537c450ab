"""The messages of one queue that are received and not done with, within bounds. Pure: time comes in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ingest.dispatch import Target
from ingest.sqs_messages import Message

MAX_MESSAGES = 5_000
"""SQS lets 120,000 of a queue be in flight; each takes a few KiB here."""
MAX_TARGETS = 1_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """Messages, and objects that they ask for. Both are exceeded by what the receives under way bring."""

    messages: int = MAX_MESSAGES
    targets: int = MAX_TARGETS


class Held:
    """Messages by their receipt. `most` and `most_targets` are the largest numbers that were held at once."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._messages: dict[str, Message] = {}
        self._leased_at: dict[str, float] = {}
        self._targets: Counter[Target] = Counter()
        self.most = 0
        self.most_targets = 0

    def add(self, message: Message, now: float) -> None:
        """`now` is when its visibility timeout began, on a clock that never goes back."""
        self._messages[message.receipt] = message
        self._leased_at[message.receipt] = now
        self._targets.update(message.targets)
        self.most = max(self.most, len(self._messages))
        self.most_targets = max(self.most_targets, len(self._targets))

    def drop(self, message: Message) -> None:
        """Raises `KeyError` for a message that is not held."""
        del self._messages[message.receipt], self._leased_at[message.receipt]
        self._targets.subtract(message.targets)
        for target in message.targets:
            if not self._targets[target]:
                del self._targets[target]

    def renew(self, message: Message, now: float) -> None:
        """Its visibility timeout begins anew, if it is still held."""
        if message.receipt in self._messages:
            self._leased_at[message.receipt] = now

    def leased_before(self, moment: float) -> list[Message]:
        return [message for receipt, message in self._messages.items() if self._leased_at[receipt] <= moment]

    @property
    def is_full(self) -> bool:
        return len(self._messages) >= self._bounds.messages or len(self._targets) >= self._bounds.targets

    @property
    def oldest_sent_at(self) -> float | None:
        """Seconds since 1970."""
        return min((message.sent_at for message in self._messages.values()), default=None)

    def __len__(self) -> int:
        return len(self._messages)
