"""An honest newcomer every moment: from an address of its own, handshake and one question, timed. Lines of JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from p2pmodel.net import Address
from p2pmodel.swarm import wire
from tests.benchmarks.hostile.caller import GONE, Caller, dial, stranger

_PATIENCE_S = 10.0


async def greet(number: int, to: Address) -> dict[str, object]:
    """Seconds until the handshake was done and until the question was answered; None for what did not come about."""
    source = f"198.19.{number % 250}.{1 + number // 250 % 250}"
    began, shaken_s, answered_s, failed = time.monotonic(), None, None, ""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            caller = await Caller.connect(source, to, stranger())
            shaken_s = time.monotonic() - began
            await caller.say(wire.encode(wire.RequestStatements(1, bytes(32))))
            while not isinstance(wire.decode(await caller.hear()), wire.Statements):
                pass
            answered_s = time.monotonic() - began
            caller.sock.close()
    except (*GONE, TimeoutError) as error:
        failed = repr(error)
    return {"at": began, "shaken_s": shaken_s, "answered_s": answered_s, "failed": failed}


async def main(to: Address, pause_s: float) -> None:
    # What is loaded and made when it is first needed must not be counted against the victim.
    (await dial("198.19.255.1", to)).close()
    running: set[asyncio.Task[dict[str, object]]] = set()

    def say(task: asyncio.Task[dict[str, object]]) -> None:
        running.discard(task)
        print(json.dumps(task.result()), flush=True)

    number = 0
    while True:
        task = asyncio.ensure_future(greet(number, to))
        running.add(task)
        task.add_done_callback(say)
        number += 1
        await asyncio.sleep(pause_s)


if __name__ == "__main__":
    asyncio.run(main(Address.parse(sys.argv[1]), float(sys.argv[2])))
