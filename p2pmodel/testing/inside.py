"""The one place where simulations look into an overlay node, past its public interface: to see the truth, or to set
up tables that would take days to grow. Nothing here is available to another peer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from p2pmodel.net import Address
from p2pmodel.overlay import Overlay
from p2pmodel.overlay.density import is_crowded
from p2pmodel.overlay.overlay import LookupTrace
from p2pmodel.overlay.package import Contact
from p2pmodel.overlay.protocol import OverlayProtocol

if TYPE_CHECKING:
    from p2pmodel.testing.overlays import Member


def protocol_of(overlay: Overlay) -> OverlayProtocol:
    return overlay._protocol


def fill_table(overlay: Overlay, members: Iterable[Member], now: float) -> None:
    """Make `members` contacts of this node, as if each had proved its key just now."""
    table = protocol_of(overlay).table
    for member in members:
        table.add(Contact(member.id, member.key.public, member.address, now), now)


def remember_entries(overlay: Overlay, entries: Iterable[Address]) -> None:
    """What a first join through `entries` would have left behind."""
    overlay._upkeep.entries.update(dict.fromkeys(entries))


def holds(overlay: Overlay, key: bytes) -> bool:
    """Whether this node keeps a record of any provider of `key`, or provides it itself."""
    protocol = protocol_of(overlay)
    return bool(protocol.providers.find(key, 0, protocol.clock.monotonic())[0])


def crowded(overlay: Overlay, trace: LookupTrace) -> bool:
    """Whether this node takes the nodes nearest to the key for placed there on purpose."""
    protocol = protocol_of(overlay)
    size = protocol.network_size.estimate(protocol.table.size_estimate(), protocol.clock.monotonic())
    place = int.from_bytes(trace.key, "big")
    return is_crowded([int.from_bytes(node, "big") ^ place for node in trace.closest], size)
