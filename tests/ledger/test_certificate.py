"""Certificates as files: what they state, what changed between two of them, and every kind of damage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.certificate import CertificateWriter, check, compare, verify_file
from ledger.certificate_file import HEADER, Certificate
from replication.certificate import Leaf, key_bytes, root_of
from replication.errors import CertificateBroken
from replication.statement import MAX_EXCEPTIONS, Comparison, Excepted, Statement
from replication.tree_diff import Change
from tests.certificates import sealed, sealed_text

ODD_KEYS = ["", "\0", "\n", "a", "a\0", "a\n", "a\nb", "é", "\ud800", "\udcff", "\uffff", "\U00010000"]
OBJECTS = st.dictionaries(
    st.text(st.characters(), max_size=8), st.tuples(st.integers(0, 3), st.sampled_from(["etag:a", "etag:b"])), max_size=20
)
REUSE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
"""Each example overwrites the files of the one before."""


def write(path: Path, leaves: Iterable[Leaf]) -> Statement:
    with CertificateWriter(path, route="nightly", at=1_700_000_000.0) as writer:
        for leaf in leaves:
            writer.add(*leaf)
        return writer.close()


def numbered(count: int) -> list[Leaf]:
    return [Leaf(f"data/part-{n:07d}", n, f"crc32c:{n:08x}") for n in range(count)]


def read_statement(path: Path) -> Statement:
    with Certificate(path) as certificate:
        return certificate.statement


def all_changes(found: Comparison) -> list[Change]:
    return sorted(found.changed + found.added + found.removed, key=lambda change: key_bytes(change.key))


def expected(old: Iterable[Leaf], new: Iterable[Leaf]) -> list[Change]:
    was, now = {leaf.key: leaf for leaf in old}, {leaf.key: leaf for leaf in new}
    keys = sorted(was.keys() | now.keys(), key=key_bytes)
    return [Change(key, was.get(key), now.get(key)) for key in keys if was.get(key) != now.get(key)]


# --- writing ----------------------------------------------------------------------------------------------------------


def test_what_is_stated_is_what_was_added(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with CertificateWriter(path, route="nightly", at=1_700_000_000.0) as writer:
        writer.add("a", 3, "crc32c:1a2b3c4d", "end-to-end")
        writer.add("b", 4, "etag:x", "size-only")
        writer.add("c", 5, "etag:y", "size-only")
        writer.except_for("b", "differs")
        stated = writer.close()
    leaves = [Leaf("a", 3, "crc32c:1a2b3c4d"), Leaf("b", 4, "etag:x"), Leaf("c", 5, "etag:y")]
    levels = {"end-to-end": 1, "size-only": 2}
    root = root_of(leaves).hash.hex()
    assert stated == Statement("nightly", "2023-11-14T22:13:20.000Z", 3, 12, root, (Excepted("b", "differs"),), 1, levels)
    assert read_statement(path) == verify_file(path) == stated


def test_an_empty_certificate_is_one(tmp_path: Path) -> None:
    stated = write(tmp_path / "c", [])
    assert (stated.objects, stated.size_bytes, stated.root) == (0, 0, root_of([]).hash.hex())
    assert verify_file(tmp_path / "c") == stated
    assert compare(tmp_path / "c", tmp_path / "c").same


def test_odd_keys_are_read_back_as_they_were(tmp_path: Path) -> None:
    leaves = [Leaf(key, 1, key) for key in ODD_KEYS]
    with CertificateWriter(tmp_path / "c", route="r", at=0) as writer:
        for leaf in leaves:
            writer.add(*leaf)
            writer.except_for(leaf.key, "differs")
    verify_file(tmp_path / "c")
    with Certificate(tmp_path / "c") as certificate:
        assert list(certificate.leaves()) == leaves
        assert [one.key for one in certificate.statement.exceptions] == ODD_KEYS


def test_exceptions_are_counted_beyond_those_that_are_kept(tmp_path: Path) -> None:
    with CertificateWriter(tmp_path / "c", route="r", at=0) as writer:
        for n in range(MAX_EXCEPTIONS + 5):
            writer.except_for(f"{n}", "missing")
    stated = read_statement(tmp_path / "c")
    assert (len(stated.exceptions), stated.exceptions_count) == (MAX_EXCEPTIONS, MAX_EXCEPTIONS + 5)


def test_the_same_leaves_are_the_same_file(tmp_path: Path) -> None:
    write(tmp_path / "a", numbered(2000))
    write(tmp_path / "b", iter(numbered(2000)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("second", ["a", "b"])
def test_a_key_out_of_order_is_refused_and_adds_nothing(tmp_path: Path, second: str) -> None:
    with CertificateWriter(tmp_path / "c", route="r", at=0) as writer:
        writer.add("b", 1, "")
        with pytest.raises(ValueError, match="ascend"):
            writer.add(second, 1, "", "size-only")
        writer.add("c", 1, "")
    assert (verify_file(tmp_path / "c").objects, read_statement(tmp_path / "c").levels) == (2, {})


def test_an_exception_leaves_what_stood_there(tmp_path: Path) -> None:
    stated = write(tmp_path / "c", numbered(3))

    def stops() -> Iterator[Leaf]:
        yield Leaf("a", 1, "")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write(tmp_path / "c", stops())
    assert verify_file(tmp_path / "c") == stated
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]


def test_nothing_stands_at_the_path_before_the_end(tmp_path: Path) -> None:
    writer = CertificateWriter(tmp_path / "c", route="r", at=0)
    writer.add("a", 1, "")
    assert not (tmp_path / "c").exists()
    writer.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]


def test_a_rename_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    writer = CertificateWriter(tmp_path / "c", route="r", at=0)
    with pytest.raises(IsADirectoryError):
        writer.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]


# --- comparing --------------------------------------------------------------------------------------------------------


@REUSE
@given(OBJECTS, OBJECTS)
def test_compare_and_check_are_the_difference_of_two_dicts(
    tmp_path: Path, old: dict[str, tuple[int, str]], new: dict[str, tuple[int, str]]
) -> None:
    before, after = ([Leaf(key, *objects[key]) for key in sorted(objects)] for objects in (old, new))
    write(tmp_path / "old", before)
    write(tmp_path / "new", after)
    found = compare(tmp_path / "old", tmp_path / "new")
    assert all_changes(found) == expected(before, after)
    assert all_changes(check(tmp_path / "old", after)) == expected(before, after)
    assert found.same == (before == after)


@settings(REUSE, max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from([0.0005, 0.01, 0.5]))
def test_many_ranges_compare_as_two_dicts(tmp_path: Path, seed: int, share: float) -> None:
    random, old = Random(seed), numbered(3000)
    new = [leaf._replace(digest="etag:new") if random.random() < share else leaf for leaf in old if random.random() >= share]
    write(tmp_path / "old", old)
    write(tmp_path / "new", new)
    assert all_changes(compare(tmp_path / "old", tmp_path / "new", limit=9999)) == expected(old, new)
    assert all_changes(compare(tmp_path / "new", tmp_path / "old", limit=9999)) == expected(new, old)
    assert all_changes(check(tmp_path / "old", iter(new), limit=9999)) == expected(old, new)


def test_a_comparison_keeps_a_few_keys_and_counts_all(tmp_path: Path) -> None:
    write(tmp_path / "old", [])
    write(tmp_path / "new", numbered(3000))
    found = compare(tmp_path / "old", tmp_path / "new", limit=2)
    assert ([change.key for change in found.added], found.added_count) == (["data/part-0000000", "data/part-0000001"], 3000)


def test_a_stream_out_of_order_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "c", [])
    with pytest.raises(ValueError, match="ascend"):
        check(tmp_path / "c", reversed(numbered(3)))


def test_one_changed_key_of_a_million_is_named_by_reading_under_one_percent(tmp_path: Path) -> None:
    count, at = 1_000_000, 612_345
    leaves = numbered(count)
    write(tmp_path / "old", leaves)
    was, now = leaves[at], leaves[at]._replace(digest="crc32c:ffffffff")
    leaves[at] = now
    write(tmp_path / "new", leaves)
    found = compare(tmp_path / "old", tmp_path / "new")
    assert found == Comparison(changed=(Change(was.key, was, now),), changed_count=1, leaves_read=found.leaves_read)
    assert 0 < found.leaves_read < count / 100


@pytest.mark.parametrize("at", [0, 77_777, 199_999])
def test_one_key_that_came_or_went_is_named_by_reading_under_one_percent(tmp_path: Path, at: int) -> None:
    count, leaves = 200_000, numbered(200_000)
    write(tmp_path / "all", leaves)
    write(tmp_path / "less", leaves[:at] + leaves[at + 1 :])
    gone, came = compare(tmp_path / "all", tmp_path / "less"), compare(tmp_path / "less", tmp_path / "all")
    assert all_changes(gone) == [Change(leaves[at].key, leaves[at], None)]
    assert all_changes(came) == [Change(leaves[at].key, None, leaves[at])]
    assert 0 < gone.leaves_read == came.leaves_read < count / 100
    assert 0 < check(tmp_path / "less", leaves).leaves_read < count / 100


# --- damage -----------------------------------------------------------------------------------------------------------


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    with CertificateWriter(tmp_path / "c", route="r", at=0) as writer:
        for leaf in numbered(70):
            writer.add(*leaf)
        writer.except_for("k", "missing")
    whole = (tmp_path / "c").read_bytes()
    for at in range(len(whole)):
        (tmp_path / "c").write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        with pytest.raises(CertificateBroken) as broken:
            verify_file(tmp_path / "c")
        assert len(str(broken.value).splitlines()) == 1


def test_every_flipped_byte_of_a_node_is_found(tmp_path: Path) -> None:
    write(tmp_path / "c", numbered(2000))
    whole = bytearray((tmp_path / "c").read_bytes())
    assert root_of(numbered(2000)).level == 2
    text_at = whole.rindex(b'{"route"')
    for at in range(whole.index(key_bytes("data/part-0001999")), text_at):
        whole[at] ^= 0x80
        (tmp_path / "c").write_bytes(whole)
        with pytest.raises(CertificateBroken):
            verify_file(tmp_path / "c")
        whole[at] ^= 0x80


@settings(REUSE, max_examples=50)
@given(st.data())
def test_any_damage_is_found(tmp_path: Path, data: st.DataObject) -> None:
    write(tmp_path / "c", numbered(1500))
    whole = (tmp_path / "c").read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(start + 50, len(whole))))
    damaged = whole[:start] + data.draw(st.binary(max_size=50)) + whole[end:]
    (tmp_path / "c").write_bytes(damaged)
    if damaged == whole:
        verify_file(tmp_path / "c")
    else:
        with pytest.raises(CertificateBroken):
            verify_file(tmp_path / "c")


def test_a_file_cut_short_is_found_at_once(tmp_path: Path) -> None:
    write(tmp_path / "c", numbered(40))
    whole = (tmp_path / "c").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "c").write_bytes(whole[:length])
        with pytest.raises(CertificateBroken):
            read_statement(tmp_path / "c")


@pytest.mark.parametrize("more", [b"\0", b"\n", b"x" * 100])
def test_a_longer_file_is_found_at_once(tmp_path: Path, more: bytes) -> None:
    write(tmp_path / "c", numbered(40))
    with (tmp_path / "c").open("ab") as file:
        file.write(more)
    with pytest.raises(CertificateBroken):
        read_statement(tmp_path / "c")


def test_a_comparison_finds_damage_where_it_reads(tmp_path: Path) -> None:
    leaves = numbered(5000)
    write(tmp_path / "old", leaves)
    write(tmp_path / "new", [*leaves[:2500], *leaves[2501:]])
    whole = (tmp_path / "old").read_bytes()
    (tmp_path / "old").write_bytes(whole.replace(b"crc32c:000009c4", b"crc32c:000009c5"))
    with pytest.raises(CertificateBroken, match=r"'old' cannot be trusted: what stands at byte .* is damaged"):
        compare(tmp_path / "old", tmp_path / "new")
    with pytest.raises(CertificateBroken):
        check(tmp_path / "old", [*leaves[:2500], *leaves[2501:]])


@pytest.mark.parametrize(
    "lie",
    [
        lambda document: document.update(objects=41),
        lambda document: document.update(size_bytes=1),
        lambda document: document.update(root="00" * 32),
        lambda document: document.update(root="no hash"),
        lambda document: document.update(route=7),
        lambda document: document.pop("exceptions"),
        lambda document: document.pop("tree"),
        lambda document: document["tree"].update(level=2),
        lambda document: document["tree"].update(level=0),
        lambda document: document["tree"].update(level=9999),
        lambda document: document["tree"].update(offset=0),
        lambda document: document["tree"].update(offset=1 << 70),
        lambda document: document["tree"].update(offset=float("inf")),
        lambda document: document["tree"].update(length=1 << 40),
        lambda document: document["tree"].update(length=-1),
        lambda document: document["tree"].update(length=None),
    ],
)
def test_a_statement_that_its_tree_does_not_bear_out_is_found(tmp_path: Path, lie: Callable[[dict[str, Any]], None]) -> None:
    write(tmp_path / "c", numbered(40))
    sealed(tmp_path / "c", lambda document: None)
    verify_file(tmp_path / "c")
    sealed(tmp_path / "c", lie)
    with pytest.raises(CertificateBroken):
        verify_file(tmp_path / "c")


@pytest.mark.parametrize("text", [b"[" * 200_000, b'{"tree": ' * 200_000, b"9" * 5000, b"\xff", b"", b"null"])
def test_a_statement_that_is_no_document_is_found(tmp_path: Path, text: bytes) -> None:
    write(tmp_path / "c", numbered(40))
    sealed_text(tmp_path / "c", lambda _: text)
    with pytest.raises(CertificateBroken, match="its statement is not of version 1"):
        verify_file(tmp_path / "c")


def test_bytes_that_no_node_names_are_found(tmp_path: Path) -> None:
    write(tmp_path / "c", numbered(40))
    whole = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(HEADER + b"gap" + whole[len(HEADER) :])
    sealed(tmp_path / "c", lambda document: document["tree"].update(offset=len(HEADER) + 3))
    with pytest.raises(CertificateBroken, match="not what it states"):
        verify_file(tmp_path / "c")


def test_a_tree_cut_by_other_rules_is_found(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as rules:
        rules.setattr("replication.certificate.MIN_CHILDREN", 8)
        write(tmp_path / "c", numbered(5000))
    with pytest.raises(CertificateBroken, match="not what it states"):
        verify_file(tmp_path / "c")


@pytest.mark.parametrize("content", [b"", b"x", HEADER, b"x" * 1000, HEADER.replace(b"1", b"2") + b"x" * 100])
def test_another_file_is_no_certificate(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(CertificateBroken):
        read_statement(tmp_path / "c")
