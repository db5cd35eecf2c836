"""How many connections to one peer carry what its path can carry.

One TCP connection has at most its window under way: some megabytes, whatever the path could take (`tcp_wmem`; measured:
30 MB/s at 80 ms on a line of 125). A few side by side have that many windows, and recover from losses one by one. So
a channel may grow *lanes*: more sockets to the same peer, each with a handshake and keys of its own. On short paths
there is one, or two where much is to come: not for the path, but because one thread on each side works for each. Where
much is to come over a long path, they are opened before the first has found out what it carries: each starts slowly by
itself, and together they are there two round trips sooner. A plain object; times are monotonic seconds.
"""

from __future__ import annotations

from p2pmodel.limits import LANES_NEAR, LANES_PER_CHANNEL_MAX, MIB

_LOOK_S = 0.25
_LONG_PATH_S = 0.010
_BYTES_PER_LANE = MIB
"""Under way on each connection before another is worth its handshake."""
_MUCH_BYTES = 32 * MIB
"""So much to come is worth the handshakes of all lanes before anything is known of the path but its length. With less,
the last chunks come over lanes that have only just begun (measured: 16 MiB at 80 ms, 1.2 s over one, 1.4 over four)."""


_LONGER_PATH_S = 0.1


def share_a_window(lanes: int, round_trip_s: float) -> bool:
    """Whether so many connections fill a long path with the windows that the kernel gives each by itself.

    With longer ones they overfill the queue on it and lose what they send (measured: a GiB at 1 Gbit/s and 80 ms, where
    a round trip's worth may wait: 1,258 segments refused and 11.6 s; none and 10.2 s with those).
    """
    return lanes > 1 and _LONG_PATH_S <= round_trip_s < _LONGER_PATH_S


class LanePlan:
    """Asked now and then, says how many connections there should be."""

    def __init__(self, now: float, moved_bytes: int) -> None:
        self._looked_at = now
        self._moved_bytes = moved_bytes
        self._expected_bytes = 0

    def expect(self, size_bytes: int) -> None:
        """So much is to come, from now on."""
        self._expected_bytes = self._moved_bytes + size_bytes

    def due(self, now: float) -> bool:
        return now - self._looked_at >= _LOOK_S

    def lanes(self, now: float, moved_bytes: int, round_trip_s: float) -> int:
        """`moved_bytes` counts what the channel has carried so far, in both directions."""
        rate = (moved_bytes - self._moved_bytes) / max(now - self._looked_at, 1e-3)
        self._looked_at, self._moved_bytes = now, moved_bytes
        much = self._expected_bytes - moved_bytes >= _MUCH_BYTES
        if round_trip_s < _LONG_PATH_S:
            return LANES_NEAR if much else 1
        if much:
            return LANES_PER_CHANNEL_MAX
        return min(1 + int(rate * round_trip_s / _BYTES_PER_LANE), LANES_PER_CHANNEL_MAX)
