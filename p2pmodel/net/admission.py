"""Who may have a connection: so many in all, from one address and from one address group, and who makes room.

A plain object for both doors, that of the listener (connections whose handshake is under way) and that of the swarm
(open ones). An attacker is taken to have many addresses and few address groups (/24, /48), so wherever somebody has to
leave, it is somebody of the group that has the most: whoever comes from elsewhere is not kept out by a crowd, nor put
out by it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from p2pmodel.net.address import Address

K = TypeVar("K", bound=Hashable)
W = TypeVar("W", str, bytes)


class Crowd(Generic[K]):
    """Connections by where they come from, each group in order of coming. Loopback knows no cap but that in all."""

    def __init__(self, *, total_max: int, per_host_max: int, per_group_max: int) -> None:
        self._total_max = total_max
        self._per_host_max = per_host_max
        self._per_group_max = per_group_max
        self._members: dict[K, Address] = {}
        self._hosts: dict[str, dict[K, None]] = {}
        self._groups: dict[bytes, dict[K, None]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, member: K) -> bool:
        return member in self._members

    def add(self, member: K, address: Address) -> None:
        """Count it, whatever the caps say: they are for whoever adds to look at."""
        assert member not in self._members
        self._members[member] = address
        self._hosts.setdefault(address.host, {})[member] = None
        self._groups.setdefault(address.group, {})[member] = None

    def remove(self, member: K) -> None:
        """It has gone. A second call does nothing."""
        address = self._members.pop(member, None)
        if address is None:
            return
        _leave(self._hosts, address.host, member)
        _leave(self._groups, address.group, member)

    def neighbours(self, address: Address) -> list[K]:
        """Where the caps of this address or its group leave no place: those who hold them, the eldest first."""
        if address.is_loopback:
            return []
        for there, most in (
            (self._hosts.get(address.host, {}), self._per_host_max),
            (self._groups.get(address.group, {}), self._per_group_max),
        ):
            if len(there) >= most:
                return list(there)
        return []

    @property
    def full(self) -> bool:
        return len(self._members) >= self._total_max

    def fullest_group(self) -> list[K]:
        """The members of the group that has the most, the eldest first; of two such groups the one that came first."""
        fullest: dict[K, None] = max(self._groups.values(), key=len) if self._groups else {}
        return list(fullest)

    def gives_way(self, address: Address, *, worth: Callable[[K], float], idle: Callable[[K], bool]) -> K | None:
        """Who leaves, so that somebody from this address can come in; None where everybody has a better right to stay.

        Of the fullest group, if the newcomer's has fewer even with the newcomer, whoever is worth least; else the same
        of those who are idle. Of equals the youngest: whoever floods comes last.
        """
        among = self.fullest_group()
        if len(among) <= len(self._groups.get(address.group, {})) + 1:
            among = [member for member in self._members if idle(member)]
        return min(reversed(among), key=worth, default=None)


def _leave(places: dict[W, dict[K, None]], where: W, member: K) -> None:
    del places[where][member]
    if not places[where]:
        del places[where]
