"""A fault proxy: stands between a client and an HTTP server and breaks chosen requests in chosen places.

    async with FaultProxy(seaweed.endpoint) as proxy:
        proxy.add(Rule(Status(503, b"<Error><Code>SlowDown</Code></Error>"), method="PUT", path=r"/bucket/key", times=2))
        ...                                       # the client's endpoint is proxy.endpoint
        proxy.assert_fired()

The Host header reaches the server as the client sent it, so that S3 signatures still hold. Bodies are streamed. HTTP
trailers are dropped (those of `aws-chunked` are part of the body and stay).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

from tests.wire import LONGEST_HEAD, Head, Wire

When = Literal["before_upstream", "after_upstream", "mid_request", "mid_response"]
LAST_BYTES_S = 0.05
"""An answer may overtake the proxy's own last step of sending the request, by less than this."""


@dataclass(frozen=True)
class Status:
    """This answer instead of the server's; `after_upstream` the server has carried the request out."""

    code: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Reset:
    """RST to both sides; `after_upstream` the server has carried the request out and the answer is lost."""


@dataclass(frozen=True)
class DropResponse:
    """The server carries the request out; the client sees the connection end without a byte."""


@dataclass(frozen=True)
class Truncate:
    """The body ends at `at`, then the connection: less than its head promised."""


@dataclass(frozen=True)
class TruncateFixLength:
    """The body ends at `at` and its head promises no more: a well-formed short message."""


@dataclass(frozen=True)
class Flip:
    """The lowest bit of the body's byte at `at` is inverted."""


@dataclass(frozen=True)
class Delay:
    seconds: float


@dataclass(frozen=True)
class Stall:
    """Nothing moves until the rule is released; connections stay open."""


@dataclass(frozen=True)
class DuplicateRequest:
    """The server gets the request twice, one after the other; the client gets the second answer. Held in memory."""


@dataclass(frozen=True)
class StripHeader:
    """From the request (`before_upstream`) or from the response (`after_upstream`)."""

    name: str


@dataclass(frozen=True)
class RewriteHeader:
    """In the request (`before_upstream`) or in the response (`after_upstream`); adds the header if it is absent."""

    name: str
    value: str


Action = (
    Status | Reset | DropResponse | Truncate | TruncateFixLength | Flip | Delay | Stall | DuplicateRequest | StripHeader | RewriteHeader
)

PLACES: dict[type[Action], set[str]] = {
    Status: {"before_upstream", "after_upstream"},
    Reset: {"before_upstream", "after_upstream", "mid_request", "mid_response"},
    DropResponse: {"after_upstream"},
    Truncate: {"mid_request", "mid_response"},
    TruncateFixLength: {"mid_request", "mid_response"},
    Flip: {"mid_request", "mid_response"},
    Delay: {"before_upstream", "after_upstream", "mid_request", "mid_response"},
    Stall: {"before_upstream", "after_upstream", "mid_request", "mid_response"},
    DuplicateRequest: {"before_upstream"},
    StripHeader: {"before_upstream", "after_upstream"},
    RewriteHeader: {"before_upstream", "after_upstream"},
}


@dataclass
class Rule:
    """`do`, to the matching requests number `nth` to `nth + times - 1`, where `when` says."""

    do: Action
    when: When = "before_upstream"
    at: int = 0
    """For `mid_request` and `mid_response`: after this many bytes of the body."""
    method: str = ".*"
    """A regular expression for the whole method."""
    path: str = ".*"
    """A regular expression searched in path and query as sent, percent-encoded."""
    nth: int = 1
    times: int = 1
    matched: int = field(default=0, init=False)
    fired: int = field(default=0, init=False)
    """How often the fault took place, which a body shorter than `at` or an absent header prevents."""
    _released: asyncio.Event = field(default_factory=asyncio.Event, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.when not in PLACES[type(self.do)]:
            raise ValueError(f"{type(self.do).__name__} cannot happen {self.when}")

    def claims(self, head: Head) -> bool:
        """Counts the request if it matches and says whether the fault is meant for it."""
        if not re.fullmatch(self.method, head.method) or not re.search(self.path, head.target):
            return False
        self.matched += 1
        return self.nth <= self.matched < self.nth + self.times

    def release(self) -> None:
        """Ends a Stall, now and for later requests."""
        self._released.set()

    async def pause(self) -> None:
        self.fired += 1
        if isinstance(self.do, Delay):
            await asyncio.sleep(self.do.seconds)
        else:
            await self._released.wait()


@dataclass
class Exchange:
    """One request as the client sent it, and what the client got."""

    method: str
    target: str
    status: int | None = None
    """None while there is no answer, and when none was delivered."""
    request_bytes: int = 0
    """Bytes of the body forwarded to the server."""
    response_bytes: int = 0
    """Bytes of the body sent to the client."""


class _Sever(Exception):
    """The connection of the client ends here."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__()
        self.reset = reset


class FaultProxy:
    """Listens on a free loopback port for as long as its context lasts."""

    def __init__(self, upstream: str, *rules: Rule) -> None:
        address = urlsplit(upstream)
        self._upstream = (address.hostname or "127.0.0.1", address.port or 80)
        self.rules = list(rules)
        self.log: list[Exchange] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, rule: Rule) -> Rule:
        self.rules.append(rule)
        return rule

    def requests(self, method: str = ".*", path: str = ".*") -> list[Exchange]:
        """The log so far; patterns as in `Rule`."""
        return [seen for seen in self.log if re.fullmatch(method, seen.method) and re.search(path, seen.target)]

    def assert_fired(self) -> None:
        """Every rule took effect at least once: a test whose fault never happened proves nothing."""
        idle = [rule for rule in self.rules if rule.fired == 0]
        assert not idle, f"these faults never happened: {idle}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=LONGEST_HEAD)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_Connection(self, Wire.of(reader, writer), self._upstream).serve())
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # Cancelled before it began, or while it was closing the other side, it has left this one open.
        task.add_done_callback(lambda _: writer.close())


class _Connection:
    """One client connection and the server connection that is kept open beside it."""

    def __init__(self, proxy: FaultProxy, client: Wire, address: tuple[str, int]) -> None:
        self._proxy = proxy
        self._client = client
        self._address = address
        self._server: Wire | None = None

    async def serve(self) -> None:
        try:
            while (head := await self._client.read_head()) is not None:
                seen = Exchange(head.method, head.target)
                self._proxy.log.append(seen)
                # Every rule counts the request, so no rule hides another.
                plan = [rule for rule in self._proxy.rules if rule.claims(head)]
                if not await _Request(self, self._client, head, plan, seen).run():
                    return
        except _Sever as cut:
            if cut.reset:
                self._client.reset()
                if self._server is not None:
                    self._server.reset()
        except (OSError, asyncio.IncompleteReadError):
            # One side went away: the other sees the end of its connection too.
            pass
        finally:
            # Both at once and without waiting first: whoever cancels this meanwhile must not leave one open.
            for wire in (self._client, self._server):
                if wire is not None:
                    wire.writer.close()
            await self.drop_server()
            await self._client.close()

    async def server(self) -> Wire:
        if self._server is not None and self._server.reader.at_eof():
            await self.drop_server()
        if self._server is None:
            self._server = Wire.of(*await asyncio.open_connection(*self._address, limit=LONGEST_HEAD))
        return self._server

    async def drop_server(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.close()


class _Request:
    """One request on its way. `run` says whether the client's connection can carry another."""

    def __init__(self, connection: _Connection, client: Wire, head: Head, plan: list[Rule], seen: Exchange) -> None:
        self._connection = connection
        self._client = client
        self._head = head
        self._plan = plan
        self._seen = seen

    async def run(self) -> bool:
        head = self._head
        body = self._client.read_request_body(head)
        for rule in self._rules("before_upstream"):
            match rule.do:
                case Status() as status:
                    return await self._answer_alone(rule, status, body)
                case Reset():
                    rule.fired += 1
                    raise _Sever(reset=True)
                case DuplicateRequest():
                    rule.fired += 1
                    whole = b"".join([piece async for piece in body])
                    await self._send_unseen(head, whole)
                    body = _once(whole)
                case _:
                    head = await _pass_head(rule, head)
        head = _shortened(head, self._rules("mid_request"))
        return await self._forward(head, self._broken(body, "mid_request"))

    def _rules(self, when: When) -> list[Rule]:
        return sorted((rule for rule in self._plan if rule.when == when), key=lambda rule: rule.at)

    async def _answer_alone(self, rule: Rule, status: Status, body: AsyncIterator[bytes]) -> bool:
        """The server never hears of the request. A client that waits for `100 Continue` never sends its body."""
        waits = self._head.get("expect") is not None
        if not waits:
            await _drain(body)
        await self._answer(rule, status)
        return not waits

    async def _answer(self, rule: Rule, status: Status) -> None:
        rule.fired += 1
        fields = (*status.headers, ("Content-Length", str(len(status.body))))
        body = b"" if self._head.method == "HEAD" else status.body
        await self._client.send(Head(f"HTTP/1.1 {status.code} Fault", fields).encode() + body)
        self._seen.status, self._seen.response_bytes = status.code, len(body)

    async def _send_unseen(self, head: Head, body: bytes) -> None:
        """Carries the request out once; nobody sees the answer."""
        server = await self._connection.server()
        await server.send(head.without("expect").encode())
        await server.send_piece(body, chunked=head.chunked)
        if head.chunked:
            await server.send(b"0\r\n\r\n")
        response = await self._final_head(server, relay=False)
        await _drain(server.read_response_body(response, head.method))
        if not response.keeps_alive:
            await self._connection.drop_server()

    async def _forward(self, head: Head, body: AsyncIterator[bytes]) -> bool:
        server = await self._connection.server()
        await server.send(head.encode())
        sending = asyncio.create_task(self._send_body(server, body, chunked=head.chunked))
        answer = asyncio.create_task(self._final_head(server, relay=True))
        try:
            await asyncio.wait({sending, answer}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            response = await answer
            await asyncio.wait({sending}, timeout=LAST_BYTES_S)
            # An answer before the whole request: what follows on the client's connection is no new request.
            complete = sending.done() and sending.result()
            await self._deliver(server, response)
        finally:
            for task in (sending, answer):
                task.cancel()
            await asyncio.gather(sending, answer, return_exceptions=True)
        if not response.keeps_alive or not complete:
            await self._connection.drop_server()
        return complete and response.keeps_alive and head.keeps_alive and not _ends_with_connection(response, head.method)

    async def _send_body(self, server: Wire, body: AsyncIterator[bytes], *, chunked: bool) -> bool:
        """Whether the server took it all. One that answers early and closes does not, and its answer still counts."""
        async for piece in body:
            try:
                await server.send_piece(piece, chunked=chunked)
            except ConnectionError:
                return False
            self._seen.request_bytes += len(piece)
        if chunked:
            await server.send(b"0\r\n\r\n")
        return True

    async def _final_head(self, server: Wire, *, relay: bool) -> Head:
        """The answer's head; `100 Continue` and its like go to the client on the way."""
        while True:
            head = await server.read_head()
            if head is None:
                raise ConnectionResetError("the server closed the connection without an answer")
            if head.status >= 200:
                return head
            if relay:
                await self._client.send(head.encode())

    async def _deliver(self, server: Wire, response: Head) -> None:
        body = server.read_response_body(response, self._head.method)
        for rule in self._rules("after_upstream"):
            match rule.do:
                case Status() as status:
                    await _drain(body)
                    return await self._answer(rule, status)
                case Reset() | DropResponse():
                    await _drain(body)
                    rule.fired += 1
                    raise _Sever(reset=isinstance(rule.do, Reset))
                case _:
                    response = await _pass_head(rule, response)
        if self._head.method != "HEAD":
            response = _shortened(response, self._rules("mid_response"))
        await self._client.send(response.encode())
        self._seen.status = response.status
        async for piece in self._broken(body, "mid_response"):
            await self._client.send_piece(piece, chunked=response.chunked)
            self._seen.response_bytes += len(piece)
        if response.chunked and self._head.method != "HEAD":
            await self._client.send(b"0\r\n\r\n")

    async def _broken(self, body: AsyncIterator[bytes], when: When) -> AsyncIterator[bytes]:
        """The body with its faults, each exactly at its offset."""
        rules = self._rules(when)
        offset = 0
        async for piece in body:
            while rules and rules[0].at < offset + len(piece):
                rule = rules.pop(0)
                cut = rule.at - offset
                yield piece[:cut]
                offset, piece = rule.at, piece[cut:]
                if isinstance(rule.do, TruncateFixLength):
                    rule.fired += 1
                    await _drain(body)
                    return
                piece = await _break(rule, piece)
            yield piece
            offset += len(piece)
        for rule in rules:
            if rule.at == offset and isinstance(rule.do, Reset | Delay | Stall):
                await _break(rule, b"")


async def _break(rule: Rule, rest: bytes) -> bytes:
    """What follows at a rule's offset instead of `rest`."""
    match rule.do:
        case Delay() | Stall():
            await rule.pause()
            return rest
        case Flip():
            rule.fired += 1
            return bytes([rest[0] ^ 1]) + rest[1:]
        case _:
            rule.fired += 1
            raise _Sever(reset=isinstance(rule.do, Reset))


async def _pass_head(rule: Rule, head: Head) -> Head:
    """A head after a rule that does not end the exchange."""
    match rule.do:
        case StripHeader(name):
            rule.fired += head.get(name) is not None
            return head.without(name)
        case RewriteHeader(name, value):
            rule.fired += 1
            return head.having(name, value)
        case _:
            await rule.pause()
            return head


def _shortened(head: Head, rules: list[Rule]) -> Head:
    """The head of a message whose body a TruncateFixLength will cut."""
    for rule in rules:
        length = int(head.get("content-length") or 0)
        if isinstance(rule.do, TruncateFixLength) and (head.chunked or length > rule.at):
            return head.without("transfer-encoding").having("Content-Length", str(rule.at))
    return head


def _ends_with_connection(response: Head, method: str) -> bool:
    bodyless = method == "HEAD" or response.status in {204, 304}
    return not bodyless and not response.chunked and response.get("content-length") is None


async def _drain(body: AsyncIterator[bytes]) -> None:
    async for _ in body:
        pass


async def _once(whole: bytes) -> AsyncIterator[bytes]:
    if whole:
        yield whole
