"""Medians, ranges, tables, and lines of the scorecard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Line:
    """One mark of the scorecard and where it stands; `value` None: something that it needs was missing."""

    id: str
    what: str
    value: float | None
    mark: float
    unit: str
    at_least: bool

    @property
    def ok(self) -> bool:
        if self.value is None:
            return False
        return self.value >= self.mark if self.at_least else self.value <= self.mark

    def __str__(self) -> str:
        mark = f"{'>=' if self.at_least else '<='} {self.mark:g} {self.unit}"
        if self.value is None:
            return f"{self.id}  {'unknown':8}{self.what}: something it needs is missing (mark {mark})"
        return f"{self.id}  {'ok' if self.ok else 'short':8}{self.what}: {self.value:.2f} {self.unit} (mark {mark})"

    def as_json(self) -> dict[str, object]:
        value = None if self.value is None else round(self.value, 4)
        bound = ">=" if self.at_least else "<="
        return {
            "id": self.id,
            "what": self.what,
            "value": value,
            "mark": f"{bound} {self.mark:g} {self.unit}",
            "ok": self.ok,
        }


def at_least(line_id: str, what: str, value: float | None, mark: float, unit: str) -> Line:
    return Line(line_id, what, value, mark, unit, at_least=True)


def at_most(line_id: str, what: str, value: float | None, mark: float, unit: str) -> Line:
    return Line(line_id, what, value, mark, unit, at_least=False)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median [least..most]."""
    if not values:
        return "-"
    return f"{median(values):.{digits}f} [{min(values):.{digits}f}..{max(values):.{digits}f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return [line.rstrip() for line in lines]
