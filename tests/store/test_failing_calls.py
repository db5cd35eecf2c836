"""R4 and R5 for everything that a store does: each call of each operation fails once, with each error.

The error has its class; nothing is claimed that is not there, also where a failed sync has lost pages that count as
clean; the same process does the same again as soon as the disk lets it; after a restart nothing is left over.
"""

from __future__ import annotations

import errno
import random
from contextlib import suppress

import pytest
from crash_workloads import DATA, MODEL, OPERATIONS, OUT, OWNED_ID, Stage, recover, start

from p2pmodel.errors import NoSpaceError, P2PModelError, RefusedError
from p2pmodel.testing.disk_faults import OPERATIONS as CALLS

pytestmark = [pytest.mark.slow, pytest.mark.simulated_disk]
BEFORE = [(), ("fetch_killed",), ("publish", "fetch")]
"""What has been done when an operation begins: nothing, half of it, all."""
BARRIERS = frozenset({"sync", "sync_directory", "commit"})
CLASSES = {errno.EIO: P2PModelError, errno.ENOSPC: NoSpaceError, errno.EDQUOT: NoSpaceError, errno.EACCES: RefusedError}


def calls_of(before, name, only) -> int:
    counted = []
    with start() as disk:
        stage = Stage(disk, MODEL, OWNED_ID)
        for each in before:
            OPERATIONS[each](stage)
        disk.on_call = lambda operation, path: counted.append(operation)
        OPERATIONS[name](stage)
        disk.on_call = None
        stage.close()
    return sum(operation in only for operation in counted)


def fail(before, name, at, code, only) -> bool:
    """Whether the operation failed with it."""
    with start() as disk:
        disk.rng.seed(at)
        stage = Stage(disk, MODEL, OWNED_ID)
        for each in before:
            OPERATIONS[each](stage)
        disk.fail_after(at, code, only=only)
        failed = False
        try:
            OPERATIONS[name](stage)
        except P2PModelError as error:
            failed = True
            assert type(error) is CLASSES[code], repr(error)
        disk.heal()
        how = random.Random(at).choice(("again", "restart", "cut", "forget"))
        if how == "again":  # the same process goes on
            if name.startswith(("fetch_killed", "restart")):  # these end a process: what failed may be the next start
                stage.files.crash()
                stage.open()
            if stage.must.rotten:
                OPERATIONS["verify"](stage)
                stage.now(rotten=False)
            OPERATIONS["fetch"](stage)
        with suppress(P2PModelError):
            stage.close()
        if how == "cut":
            disk.cut_power()
        elif how == "forget":
            disk.forget_cache()
        recover(disk, stage.must, remembers=how in ("again", "restart"))
        return failed


def fail_each(name, code, only=CALLS, step=1) -> int:
    failed = 0
    for before in BEFORE:
        for at in range(1, calls_of(before, name, only) + 1, step):
            try:
                failed += fail(before, name, at, code, only)
            except BaseException as error:
                error.add_note(f"{before} then {name}, call {at} of {sorted(only)[:3]}, {errno.errorcode[code]}")
                raise
    return failed


@pytest.mark.parametrize("name", OPERATIONS)
def test_whichever_barrier_of_an_operation_fails_nothing_false_is_claimed_since_the_last_good_one(name):
    fail_each(name, errno.EIO, BARRIERS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_whichever_call_of_an_operation_fails_the_next_one_goes_on(name):
    fail_each(name, errno.EIO, step=3)


def test_a_second_barrier_does_not_prove_what_the_first_one_lost():
    """Found by the long run: a placed file's sync fails, closing the fetch syncs it again, and that holds."""
    for seed in range(8):
        with start() as disk:
            disk.rng.seed(seed)
            stage = Stage(disk, MODEL, OWNED_ID)
            disk.fail_after(1, errno.EIO, only={"sync"}, below=OUT / "a")
            with pytest.raises(P2PModelError):
                OPERATIONS["fetch_killed_at_the_end"](stage)
            stage.close()
            disk.cut_power()
            recover(disk, stage.must)


def test_space_that_cannot_be_reserved_for_the_last_file_is_given_back_for_the_first():
    with start() as disk:
        stage = Stage(disk, MODEL, OWNED_ID)
        disk.fail_after(2, errno.ENOSPC, only={"allocate"})
        with pytest.raises(NoSpaceError):
            OPERATIONS["fetch"](stage)
        assert disk.tree(DATA).keys() == {"store.sqlite3"} and not stage.here()
        OPERATIONS["fetch"](stage)
        stage.close()


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("code", CLASSES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_whichever_call_of_an_operation_fails_with_whichever_error_the_next_one_goes_on(name, code):
    fail_each(name, code)
