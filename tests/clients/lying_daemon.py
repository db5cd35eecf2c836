"""The command line, but in every chunk that its peer gives away one bit is another."""

from __future__ import annotations

from p2pmodel.__main__ import main
from p2pmodel.peer import peer
from p2pmodel.store import Store
from tests.e2e.liars import LyingShelf


def lying_shelf(store: Store, gatherings: object) -> LyingShelf:
    return LyingShelf(store, chunks=True, objects=False)


if __name__ == "__main__":
    peer.StoreShelf = lying_shelf
    main()
