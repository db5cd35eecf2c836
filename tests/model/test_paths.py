"""Portable paths: a hostile corpus stays out, ordinary names of model files come in."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodel.errors import DecodeError
from p2pmodel.model import PortablePath, clash

HOSTILE = [
    "", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", "./a", "a/./b", "a//b", "a/", "~/../x/..", "a\\b", "..\\x",
    "C:", "C:x", "c:/windows", "\\\\host\\share", "//host/share", "a\0b", "a\nb", "a\rb", "a\tb", "\x7f", "\x85",
    "con", "CON", "con.txt", "CON .0",
    "a/NUL", "nul.tar.gz", "aux", "prn", "com1", "LPT9.x", "com¹", "conin$", "a.", "a ", " a",
    "a/b./c", "a<b", "a>b", 'a"b', "a|b", "a?b", "a*b", "a:b", "a:stream", ".git", ".GIT/config", "x/.git/hooks/pre",
    "GIT~1",
    ".p2pmodel-0123456789abcdef/00000.part", ".P2PMODEL", "e\u0301", "\u202egnp.exe", "a\u200bb", "\ufeffa",
    "\u2028", ".g\u206ait",
    "\ud800", "a\udcffb", "x" * 256, "é" * 128, "/".join("a" * 33), "a/" * 600 + "a",
]  # fmt: skip
ORDINARY = [
    "model.safetensors", "model-00001-of-00004.safetensors", "config.json", "1_Pooling/config.json", ".gitattributes",
    ".github/workflow.yml", "tokenizer (1).json", "über/模型.bin", "a b/c d", "...a", "-rf", "~", "$HOME", "x" * 255,
    "a'b",
    "common/null.txt", "console", "%2e%2e/x", "#", "a;b", "!important",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_is_refused_with_a_reason(text):
    with pytest.raises(DecodeError, match="not a portable path: "):
        PortablePath(text)


@pytest.mark.parametrize("text", ORDINARY)
def test_an_ordinary_name_is_accepted_as_it_is(text):
    assert PortablePath(text).text == text


def _reserved_on_windows(part: str) -> bool:
    """As `os.path.isreserved` of Python 3.13 has it, for the devices."""
    name = part.partition(".")[0].partition(":")[0].rstrip(" ").upper()
    return name in {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} or (
        len(name) == 4 and name[:3] in ("COM", "LPT") and name[3] in "123456789¹²³"
    )


@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "a", "/", "\\", "con", "C:", "", " "])).map("".join))
def test_an_accepted_path_stays_below_its_directory_on_every_system(text):
    try:
        path = PortablePath(text)
    except DecodeError:
        return
    assert not PurePosixPath(text).is_absolute() and ".." not in PurePosixPath(text).parts
    windows = PureWindowsPath(text)
    assert not windows.drive and not windows.root and ".." not in windows.parts
    assert not any(_reserved_on_windows(part) for part in windows.parts)
    assert unicodedata.normalize("NFC", text) == text
    assert "/".join(path.parts) == text and path.name == path.parts[-1]


@pytest.mark.parametrize(
    "texts",
    [("a", "A"), ("a/b", "A/b"), ("a", "a/b"), ("A", "a/b"), ("straße", "STRASSE"), ("É", "é"), ("x/y/z", "X/q")],
)
def test_names_that_cannot_exist_together_clash(texts):
    assert clash(PortablePath(text) for text in texts)
    assert clash(PortablePath(text) for text in reversed(texts))


def test_different_names_do_not_clash():
    assert clash(PortablePath(text) for text in ("a", "b", "c/a", "c/b", "d/a")) is None
