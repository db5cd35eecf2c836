"""Names of files inside a model that mean the same on every system and can never leave their directory."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from p2pmodel.errors import DecodeError
from p2pmodel.limits import PATH_BYTES_MAX, PATH_COMPONENT_BYTES_MAX, PATH_DEPTH_MAX

_FORBIDDEN = re.compile(r'[<>:"|?*\\\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]')
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?", re.IGNORECASE)
_RESERVED_NAMES = (".git", "git~1")
"""A checkout that runs hooks must not come out of a model; the second is its short name on Windows."""
_RESERVED_START = ".p2pmodel"
"""Our own partial files."""


@dataclass(frozen=True, slots=True, order=True)
class PortablePath:
    """A relative path with `/` between components, valid on Linux, macOS and Windows alike.

    Refused, with the reason in the `DecodeError`: absolute paths, empty, `.` and `..` components, control and
    direction-changing characters, characters that Windows forbids, device names (`con`, `nul.txt`), a trailing dot or
    space, text that is not in Unicode normal form C, `.git`, our own partial files, and whatever is too long or deep.
    """

    text: str

    def __post_init__(self) -> None:
        reason = _fault(self.text)
        if reason:
            raise DecodeError(f"{self.text[:120]!r} is not a portable path: {reason}")

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.text.split("/"))

    @property
    def name(self) -> str:
        return self.parts[-1]

    @property
    def folded(self) -> str:
        """What a file system that ignores case and normal form would compare."""
        return unicodedata.normalize("NFC", unicodedata.normalize("NFD", self.text).casefold())

    def __str__(self) -> str:
        return self.text


def _fault(text: str) -> str | None:
    if not isinstance(text, str) or not text:
        return "it is empty"
    if found := _FORBIDDEN.search(text):
        return f"the character {found.group()!a} is not allowed"
    if len(text.encode()) > PATH_BYTES_MAX:
        return f"it is longer than {PATH_BYTES_MAX} bytes"
    if unicodedata.normalize("NFC", text) != text:
        return "it is not in Unicode normal form C"
    parts = text.split("/")
    if len(parts) > PATH_DEPTH_MAX:
        return f"it is deeper than {PATH_DEPTH_MAX} directories"
    for part in parts:
        if fault := _component_fault(part):
            return fault
    return None


def _component_fault(part: str) -> str | None:
    if part in ("", ".", ".."):
        return f"the component {part!r} is not allowed"
    if len(part.encode()) > PATH_COMPONENT_BYTES_MAX:
        return f"a component is longer than {PATH_COMPONENT_BYTES_MAX} bytes"
    if part[-1] in ". " or part[0] == " ":
        return f"the component {part!r} begins with a space, or ends in a dot or a space"
    if _DEVICE.fullmatch(part):
        return f"{part!r} is a device on Windows"
    folded = part.casefold()
    if folded in _RESERVED_NAMES or folded.startswith(_RESERVED_START):
        return f"{part!r} is reserved"
    return None


def clash(paths: Iterable[PortablePath]) -> str | None:
    """Why these paths cannot all exist in one directory on every system, or None where they can.

    Two may differ by case or accent form alone, or one may be a directory that another needs as a file.
    """
    files: dict[str, str] = {}
    directories: dict[str, str] = {}
    for path in paths:
        folded = path.folded
        if folded in files:
            return f"{files[folded]!r} and {path.text!r} are the same name where case is ignored"
        files[folded] = path.text
        parts, exact = folded.split("/"), path.text.split("/")
        for depth in range(1, len(parts)):
            above, spelled = "/".join(parts[:depth]), "/".join(exact[:depth])
            if directories.setdefault(above, spelled) != spelled:
                return f"{directories[above]!r} and {spelled!r} are the same directory where case is ignored"
    for folded in directories:
        if folded in files:
            return f"{files[folded]!r} is both a file and a directory"
    return None
