"""When a thread that reads is woken: for any byte while the connection is cold, for most of a record later."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from p2pmodel.net.receiver import _WINDOW_OPEN_BYTES, _Waking
from p2pmodel.net.tempo import Gulp
from p2pmodel.net.threads import Mailbox

_RECORD_BYTES = 256 * 1024


def _low(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


@pytest.fixture
async def mail() -> AsyncIterator[Mailbox]:
    mail = Mailbox(asyncio.get_running_loop())
    yield mail
    mail.close()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        yield near, far


async def test_a_cold_connection_wakes_its_reader_for_any_byte_so_that_its_window_opens(
    ends: tuple[socket.socket, socket.socket], mail: Mailbox
) -> None:
    near, far = ends
    far.sendall(b"a")
    waking = _Waking(near, mail)
    assert waking.wait(_RECORD_BYTES, received=_WINDOW_OPEN_BYTES - 1)
    assert _low(near) == 1


async def test_a_warm_connection_wakes_its_reader_for_most_of_a_record_and_for_the_end(
    ends: tuple[socket.socket, socket.socket], mail: Mailbox
) -> None:
    near, far = ends
    waking = _Waking(near, mail)
    far.sendall(b"a")
    assert not waking.wait(_RECORD_BYTES, received=_WINDOW_OPEN_BYTES)
    assert _low(near) > _RECORD_BYTES // 2
    far.shutdown(socket.SHUT_RDWR)
    assert waking.wait(_RECORD_BYTES, received=_WINDOW_OPEN_BYTES)
    waking.reset()
    assert _low(near) == 1


def test_a_reader_is_woken_for_as_much_as_comes_within_some_milliseconds() -> None:
    gulp, sizes = Gulp(), []
    for wait_s in [0.0, 0.0, 0.0, 0.002, 0.02, 0.02, 0.02]:
        gulp.waited(wait_s)
        sizes.append(gulp.bytes // 1024)
    assert sizes == [512, 1024, 1024, 1024, 512, 256, 256]
