"""What the person reads. Data goes to stdout, talk to stderr, and text from other peers is made harmless first."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import msgspec


def data(line: str) -> None:
    """A line of the command's result, on stdout, at once: whoever reads a pipe must not wait for a full buffer."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def data_json(value: object) -> None:
    """One JSON object on one line of stdout, so that the last line of a stream is always whole."""
    data(msgspec.json.encode(value).decode())


def talk(sentence: str) -> None:
    """A line for the person, on stderr."""
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()


def printable(text: str) -> str:
    """Text from another peer on one line, without anything that could steer a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def columns(rows: Iterable[Sequence[str]], *, right: Sequence[int] = (), indent: str = "") -> list[str]:
    """Rows in aligned columns, two spaces apart; the columns numbered in `right` are flush right."""
    table = [[printable(cell) for cell in row] for row in rows]
    if not table:
        return []
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return [
        indent
        + "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 file`, `3 files`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
