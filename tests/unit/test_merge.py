"""The join of three ordered streams is the same however they are cut into pages, and a stream that goes back is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.merge import Stream, take_rows

Pages = list[list[str]]
KEYS = st.lists(st.sampled_from("abcdefgh"), unique=True).map(sorted)


@st.composite
def pages(draw: st.DrawFn) -> Pages:
    keys, found = draw(KEYS), []
    while keys:
        count = draw(st.integers(1, len(keys)))
        found.append(keys[:count])
        keys = keys[count:]
    return found


def joined(three: list[Pages]) -> list[tuple[str, str | None, str | None, str | None]]:
    streams, rows = [Stream() for _ in three], []
    left = [list(one) for one in three]
    for _ in range(50):
        for number, stream in enumerate(streams):
            while stream.wants_more:
                if left[number]:
                    page = left[number].pop(0)
                    stream.feed(page, [f"{key}{number}" for key in page])
                else:
                    stream.ended = True
        rows += take_rows(*streams)
    assert all(stream.drained for stream in streams)
    return rows


@given(st.tuples(pages(), pages(), pages()))
def test_each_key_has_one_row_with_what_every_stream_has_of_it(three: tuple[Pages, Pages, Pages]) -> None:
    held = [{key for page in one for key in page} for one in three]
    wanted = [(key, *(f"{key}{number}" if key in one else None for number, one in enumerate(held))) for key in sorted(set().union(*held))]
    assert joined(list(three)) == wanted


@pytest.mark.parametrize(("first", "second"), [([], ["b", "a"]), ([], ["a", "a"]), (["b"], ["a"]), (["b"], ["b"]), (["a"], ["b", "b"])])
def test_keys_that_repeat_or_go_back_are_refused(first: list[str], second: list[str]) -> None:
    stream = Stream()
    stream.feed(first, first)
    with pytest.raises(ValueError, match=r"not in byte order: '[ab]' after '[ab]'"):
        stream.feed(second, second)
