"""Whether a file system tells of changes, or has to be asked."""

from __future__ import annotations

from pathlib import PurePath

_SILENT = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "afs", "ceph", "glusterfs", "lustre", "vboxsf", "fuseblk"})
"""Types whose changes may be made elsewhere, where no kernel of ours sees them."""


def needs_polling(mountinfo: str, path: PurePath) -> bool:
    """From the text of /proc/self/mountinfo (proc(5)): whether `path` lies on a file system without notifications."""
    best, kind = PurePath("/"), ""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        if len(fields.split()) < 5 or not rest:
            continue
        point = PurePath(_unescaped(fields.split()[4]))
        if path.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, rest.split()[0]
    return kind in _SILENT or kind.startswith("fuse.")


def _unescaped(text: str) -> str:
    """Spaces and the like stand as three octal digits."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        text = text.replace(code, chr(int(code[1:], 8)))
    return text
