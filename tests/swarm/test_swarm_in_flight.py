"""How much may be out, and of whom nothing more is worth asking at the end."""

from __future__ import annotations

from p2pmodel.limits import IN_FLIGHT_BYTES_MAX, IN_FLIGHT_BYTES_STRANGERS_MAX, MIB, STRANGERS_SPARED_S
from p2pmodel.swarm.in_flight import InFlight
from p2pmodel.swarm.source import Request, Source


def deliverer(chunks_per_s: float, last_arrival: float = 0.0, bits: int = 0) -> Source:
    return Source(proven=True, chunks_per_s=chunks_per_s, last_arrival=last_arrival, bits=bits)


def test_what_strangers_owe_takes_no_room_from_who_delivers() -> None:
    out, good, stranger = InFlight(), deliverer(10), Source()
    out.count([good, stranger])
    out.add(stranger, 2 * IN_FLIGHT_BYTES_MAX)
    assert out.room_for(good)
    assert not out.room_for(stranger) and out.full
    out.add(good, IN_FLIGHT_BYTES_MAX)
    assert not out.room_for(good)
    out.add(good, -1)
    assert out.room_for(good)


def test_strangers_owe_no_more_than_their_part_together_while_somebody_delivers() -> None:
    out, good, stranger = InFlight(), deliverer(10), Source()
    out.add(stranger, IN_FLIGHT_BYTES_STRANGERS_MAX)
    assert out.room_for_strangers(), "nobody else is there to be asked"
    out.count([good, stranger])
    assert out.strangers_bytes == 0, "counted from what they owe"
    out.add(stranger, IN_FLIGHT_BYTES_STRANGERS_MAX)
    assert not out.room_for_strangers()


def test_what_is_overdue_at_a_stranger_is_not_counted() -> None:
    stranger = Source()
    stranger.requests = {1: Request(1, MIB, 0.0, 2.0), 2: Request(2, MIB, 0.0, 2.0, overdue=True)}
    out = InFlight()
    out.count([stranger])
    assert out.strangers_bytes == MIB


def test_the_last_chunks_are_soon_here_where_those_who_deliver_bring_them_in_a_moment() -> None:
    out = InFlight()
    out.count([deliverer(400, bits=0b0011), deliverer(400, bits=0b0110), Source(bits=0b1000)])
    moment = int(800 * STRANGERS_SPARED_S)
    assert out.soon_here(moment - 1, 0.0) == 0b0111, "what strangers alone hold is asked of them all the same"
    assert not out.soon_here(moment, 0.0)


def test_what_only_those_hold_who_have_stopped_delivering_is_not_soon_here() -> None:
    out, gone = InFlight(), deliverer(400, bits=0b100)
    out.count([deliverer(400, last_arrival=10.0, bits=0b011), gone])
    assert out.soon_here(10, 10.0) == 0b011
    gone.last_arrival = 10.0
    assert out.soon_here(10, 10.0) == 0b111


def test_who_has_stopped_delivering_is_not_counted_on() -> None:
    out, good = InFlight(), deliverer(400, last_arrival=10.0, bits=1)
    good.requests[1] = Request(1, MIB, 10.0, 12.0)
    out.count([good])
    assert out.soon_here(10, 10.0 + STRANGERS_SPARED_S / 2)
    assert not out.soon_here(10, 10.0 + STRANGERS_SPARED_S)
    good.requests.clear()
    assert out.soon_here(10, 10.0 + STRANGERS_SPARED_S / 2)
    assert not out.soon_here(10, 99.0), "it is asked for nothing, for whatever reason"
    good.last_arrival, good.snubbed = 99.0, True
    assert not out.soon_here(10, 99.0)
