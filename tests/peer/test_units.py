"""Sizes, rates and durations: what people write is understood exactly or refused."""

import pytest

from p2pmodel.errors import UsageError
from p2pmodel.peer.units import format_duration, format_size, parse_rate, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("1048576", 1 << 20),
        ("256MiB", 256 << 20),
        ("256mib", 256 << 20),
        ("64 KiB", 64 << 10),
        ("1GB", 10**9),
        ("1.5GiB", 3 << 29),
        ("10M", 10 << 20),
        ("7B", 7),
        ("2 bytes", 2),
    ],
)
def test_a_size_is_read_in_its_unit(text, size_bytes):
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1e3", "1..5", "ten", "1XB", "1iB", "9" * 30, "٣MiB", "1 MiB extra"])
def test_a_size_that_is_not_understood_is_refused_and_quoted(text):
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10MiB", 10 << 20),
        ("10MiB/s", 10 << 20),
        ("80Mbit", 10_000_000),
        ("80 mbit/s", 10_000_000),
        ("8kbps", 1000),
        ("500", 500),
        ("unlimited", None),
        ("None", None),
    ],
)
def test_a_rate_is_bytes_per_second_also_from_bits(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["0", "0MiB", "4bit", "fast", "-3MB", "", "10MiB/h"])
def test_a_rate_of_nothing_or_nonsense_is_refused(text):
    with pytest.raises(UsageError):
        parse_rate(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (3 << 29, "1.5 GiB"), (5 << 40, "5.0 TiB")],
)
def test_a_size_is_written_for_people(size_bytes, text):
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.99, "10 s"),
        (61, "1 min 1 s"),
        (120, "2 min"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_duration_is_written_for_people(seconds, text):
    assert format_duration(seconds) == text
