"""Who gets a place among connections: the caps hold, and whoever has to leave is of the crowd.

A crowd is driven by hand with made-up addresses; a model that counts from scratch is compared with it.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodel.net import Address, Crowd


def crowd(total: int = 100, host: int = 3, group: int = 5) -> Crowd[str]:
    return Crowd(total_max=total, per_host_max=host, per_group_max=group)


def come(into: Crowd[str], *addresses: str) -> list[str]:
    """One from each address, named by its number."""
    names = [f"{len(into) + number}" for number in range(len(addresses))]
    for name, address in zip(names, addresses, strict=True):
        into.add(name, Address(address, 1))
    return names


def has_room(there: Crowd[str], host: str) -> bool:
    return not there.neighbours(Address(host, 1))


def test_an_address_has_so_many_places_and_its_neighbours_the_rest_of_the_group() -> None:
    there = crowd()
    names = come(there, *["60.1.1.1"] * 3)
    assert there.neighbours(Address("60.1.1.1", 9)) == names
    assert has_room(there, "60.1.1.2")
    names += come(there, "60.1.1.2", "60.1.1.3")
    assert there.neighbours(Address("60.1.1.77", 9)) == names
    assert has_room(there, "60.1.2.1")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("60.1.1.1", "60.1.1.255", True),
        ("60.1.1.1", "60.1.2.1", False),
        ("2a01:1:2:3::1", "2a01:1:2:ffff::9", True),
        ("2a01:1:2::1", "2a01:1:3::1", False),
        ("::ffff:60.1.1.1", "60.1.1.9", True),
        ("10.1.1.1", "10.1.1.2", True),
    ],
)
def test_a_group_is_a_24_or_a_48_whoever_owns_it(one: str, other: str, same: bool) -> None:
    assert (Address(one, 1).group == Address(other, 1).group) is same


def test_loopback_has_every_place_there_is() -> None:
    there = crowd(total=8)
    come(there, *["127.0.0.1"] * 8)
    assert has_room(there, "127.0.0.1") and has_room(there, "::1")
    assert there.full


def test_whoever_leaves_gives_the_place_back_and_may_leave_twice() -> None:
    there = crowd()
    first, *_ = come(there, *["60.1.1.1"] * 3)
    there.remove(first)
    there.remove(first)
    assert has_room(there, "60.1.1.1") and len(there) == 2


def leaves(there: Crowd[str], host: str, worth: dict[str, float] | None = None, idle: str = "") -> str | None:
    values = worth or {}
    return there.gives_way(Address(host, 1), worth=lambda name: values.get(name, 0), idle=lambda name: name in idle)


def test_one_of_the_fullest_group_makes_room_for_a_newcomer_from_elsewhere() -> None:
    there = crowd()
    come(there, "70.1.1.1", "60.1.1.1", "60.1.1.2", "60.1.1.3", "70.1.1.2")
    assert leaves(there, "80.1.1.1") == "3", "of equals the youngest"
    assert leaves(there, "80.1.1.1", {"1": 2, "2": 1, "3": 2}) == "2", "the one that is worth least"


def test_a_newcomer_of_the_fullest_group_puts_out_nobody_but_the_idle() -> None:
    there = crowd()
    come(there, "60.1.1.1", "60.1.1.2", "70.1.1.1")
    assert leaves(there, "60.1.1.3") is None
    assert leaves(there, "60.1.1.3", idle="02") == "2"


def test_groups_do_not_put_each_other_out_in_turn() -> None:
    """With as many after the swap as the other had before it, the next newcomer would swap back."""
    there = crowd()
    come(there, "60.1.1.1", "60.1.1.2", "70.1.1.1")
    assert leaves(there, "70.1.1.2") is None
    assert leaves(there, "80.1.1.1") == "1"


def test_a_crowd_of_one_group_leaves_those_from_elsewhere_alone() -> None:
    there = crowd(total=10, host=10, group=10)
    honest = come(there, "70.1.1.1", "80.1.1.1")
    for number in range(200):
        if there.full:
            there.remove(there.fullest_group()[0])
        there.add(f"flood {number}", Address(f"60.1.1.{number}", 1))
    assert all(name in there for name in honest)
    assert len(there) == 10


MOVES = st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(0, 3)), max_size=60)


@given(MOVES)
def test_places_are_counted_as_if_from_scratch(moves: list[tuple[bool, int, int]]) -> None:
    there, members = crowd(total=20, host=2, group=4), {}
    for number, (comes, group, host) in enumerate(moves):
        address = Address(f"60.1.{group}.{host}", 1)
        if comes:
            if not there.neighbours(address) and not there.full:
                there.add(str(number), address)
                members[str(number)] = address
        elif members:
            name = sorted(members)[host % len(members)]
            there.remove(name)
            del members[name]
        hosts = [member.host for member in members.values()]
        groups = [member.group for member in members.values()]
        assert len(there) == len(members)
        assert all(hosts.count(one) <= 2 for one in hosts) and all(groups.count(one) <= 4 for one in groups)
        crowded = hosts.count(address.host) >= 2 or groups.count(address.group) >= 4
        assert bool(there.neighbours(address)) is crowded
        assert len(there.fullest_group()) == max(map(groups.count, groups), default=0)
