"""Whole swarms on loopback whose shelves are dictionaries, and peers that lie, stall or flood."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from p2pmodel.errors import CorruptChunkError, P2PModelError, PeerGoneError
from p2pmodel.model import ChunkList, Digest, HaveMap, Layout, ModelId, PublicKey, SecretKey
from p2pmodel.net import Address, BulkSink, Channel, Identity, RealNetwork, network_id
from p2pmodel.swarm import Download, Link, Swarm, wire
from p2pmodel.swarm.shelf import ObjectInMemory

PATIENCE_S = 15.0
NETWORK = network_id("swarm tests")


def secret(number: int) -> SecretKey:
    return SecretKey.from_seed(bytes([number]) * 32)


def plain_layout(data: bytes, chunk_bytes: int) -> Layout:
    """A model of one file, cut evenly."""
    from blake3 import blake3
    from hashlib import sha256

    from p2pmodel.model import FileEntry, Manifest, PortablePath, Sha256

    entries = b""
    for start in range(0, len(data), chunk_bytes):
        piece = data[start : start + chunk_bytes]
        entries += _entry(piece)
    chunks = ChunkList(entries)
    file = FileEntry(
        path=PortablePath.parse("weights.bin"),
        size=len(data),
        blake3=Digest(blake3(data).digest()),
        sha256=Sha256(sha256(data).digest()),
        chunk_list=chunks.digest,
        chunk_count=len(chunks),
    )
    return Layout(Manifest((file,)), [chunks])
