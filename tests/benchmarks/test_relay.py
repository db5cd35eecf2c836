"""The relay between two namespaces: what it does to frames of TCP, and links as they are written."""

from __future__ import annotations

import struct
from random import Random

import pytest

from tests.benchmarks.network import Link
from tests.benchmarks.relay import Losses, cut, segments

_SEGMENT = 1448
_VNET = struct.Struct("=BBHHHH")


def _sum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _frame(payload: bytes, *, sequence: int = 0xFFFFFF00, flags: int = 0x19) -> bytes:
    """TCP over IPv4 as a veth hands it over: not cut into segments, checksums left to somebody else."""
    tcp = struct.pack(">HHIIBBHHH", 5000, 6000, sequence, 7, 8 << 4, flags, 500, 0, 0) + b"\1\1\x08\x0a" + bytes(8)
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp) + len(payload), 9, 0x4000, 64, 6, 0, b"\n\0\0\1", b"\n\0\0\2"
    )
    vnet = _VNET.pack(1, 1, 66, _SEGMENT, 34, 16)
    return vnet + bytes(12) + b"\x08\0" + ip + tcp + payload


def test_a_frame_is_as_many_segments_as_it_would_be_on_a_wire() -> None:
    assert segments(_frame(bytes(_SEGMENT))) == 1
    assert segments(_frame(bytes(3 * _SEGMENT + 1))) == 4


def test_what_is_left_of_a_frame_carries_its_own_place_in_the_stream_lengths_and_checksums() -> None:
    payload = Random(1).randbytes(5 * _SEGMENT)
    part = cut(_frame(payload), 1, 3)
    _, kind, _, segment_bytes, _, _ = _VNET.unpack_from(part)
    ip, tcp, data = part[24:44], part[44:76], part[76:]
    assert (kind, segment_bytes) == (1, _SEGMENT)
    assert data == payload[_SEGMENT : 3 * _SEGMENT]
    assert struct.unpack(">H", ip[2:4])[0] == 20 + 32 + 2 * _SEGMENT
    assert _sum(ip) == 0xFFFF
    assert struct.unpack(">I", tcp[4:8])[0] == (0xFFFFFF00 + _SEGMENT) & 0xFFFFFFFF
    pseudo = ip[12:20] + struct.pack(">HH", 6, 32 + 2 * _SEGMENT)
    assert struct.unpack(">H", tcp[16:18])[0] == _sum(pseudo)
    assert not tcp[13] & 0x09  # FIN and PSH belong to the last segment, which is not in this part


def test_a_single_segment_is_left_whole_and_the_last_keeps_its_flags() -> None:
    payload = bytes(4 * _SEGMENT) + b"tail"
    part = cut(_frame(payload), 4, 5)
    assert _VNET.unpack_from(part)[1] == 0
    assert part[76:] == b"tail"
    assert part[44 + 13] == 0x19


def test_losses_take_their_share_and_leave_runs_of_what_is_kept() -> None:
    assert Losses(0.0, Random(1)).kept(5) == [(0, 5)]
    assert Losses(1.0, Random(1)).kept(5) == []
    kept = [run for _ in range(1000) for run in Losses(0.1, Random(_)).kept(45)]
    assert 0.88 < sum(end - first for first, end in kept) / 45_000 < 0.92
    assert all(first < end for first, end in kept)


def test_a_link_says_its_rate_latency_and_loss() -> None:
    link = Link.parse("1gbit,80ms,0.5%")
    assert (link.rate_bits_per_s, link.round_trip_s, link.loss) == (1e9, 0.08, 0.005)
    assert str(link) == "1 Gbit/s 80 ms 0.5 %"
    assert Link.parse("100mbit").direct and not link.direct
    # 1448 of 1514 bytes of every frame are the model's.
    assert link.ideal_s(10**9) == pytest.approx(8 * 1514 / 1448, rel=1e-3)
    with pytest.raises(ValueError, match="no link"):
        Link.parse("fast")
