"""The entries of a listing whose XML has the common, flat shape, read without a parser.

Listings are by far the most XML there is: a thousand entries a page, all alike. Whatever is not exactly as expected here
is left to the strict parser (`stores/s3xml.py`), which also reads what stands around the entries.
"""

from __future__ import annotations

import re
from functools import lru_cache

OPEN, CLOSE = "<Contents>", "</Contents>"
MAX_FIELDS = 12

_OTHER_ENCODING = re.compile(r"""encoding\s*=\s*["'](?!utf-8["'])""", re.IGNORECASE)
_FIELD = re.compile(r"<([A-Za-z]{1,40})>[^<]*</\1>")
_QUOTE = '(?:&#34;|&quot;|")?'
_VALUES = {
    "Key": r"([^<&\x00-\x1f]*)",
    "Size": r"([0-9]{1,18})",
    "ETag": rf'{_QUOTE}([^<&"\x00-\x1f]*){_QUOTE}',
    "LastModified": r"([0-9T:.Z+-]{1,40})",
    "StorageClass": r"([A-Z_]*)",
}


def quick_entries(body: bytes) -> tuple[list[tuple[str, ...]], tuple[str, ...], bytes] | None:
    """The values of every entry, the names of these values, and the document without its entries.

    None where the document is not of the common shape: then nothing is known about it.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    first, last = text.find(OPEN), text.rfind(CLOSE) + len(CLOSE)
    if first < 0 or last < first:
        return None
    rest, entries = text[:first] + text[last:], text[first:last]
    count = entries.count(OPEN)
    # Entry upon entry and nothing between: one whose tag is damaged must not be passed over.
    if "<!" in rest or "Contents" in rest or _OTHER_ENCODING.search(rest) or entries.count(CLOSE) != count:
        return None
    if entries.count(CLOSE + OPEN) != count - 1:
        return None
    names = _shape(entries[len(OPEN) : entries.index(CLOSE)])
    found = _pattern(names).findall(entries) if names else []
    kept = tuple(name for name in names if name in _VALUES)
    return (found, kept, rest.encode()) if len(found) == count else None


def _shape(entry: str) -> tuple[str, ...]:
    """The names of an entry's fields, in order; none where it has anything but fields of text, or one of them twice."""
    names = tuple(_FIELD.findall(entry))
    if (
        _FIELD.sub("", entry)
        or len(names) > MAX_FIELDS
        or len(set(names)) != len(names)
        or not {"Key", "Size", "LastModified"} <= set(names)
    ):
        return ()
    return names


@lru_cache(maxsize=64)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    fields = "".join(f"<{name}>{_VALUES.get(name, '[^<&]*')}</{name}>" for name in names)
    return re.compile(OPEN + fields + CLOSE)
