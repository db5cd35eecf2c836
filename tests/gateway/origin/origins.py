"""Peers in this process whose origin is a hub in this process, over real sockets."""

import hashlib
import random

from p2pmodel.gateway.repositories import RepoAddress


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Mirror:
    """A peer and its repositories."""

    def __init__(self, peer, repositories):
        self.peer, self.repositories = peer, repositories

    @property
    def origin_bytes(self):
        return self.repositories.supplies.origin_bytes

    async def repo(self, repo_id, revision="main", *, token=None, kind="model"):
        return await self.repositories.find(RepoAddress(kind, repo_id, revision), token)

    async def read(self, repo_id, path, start=0, end=None, *, token=None, revision="main"):
        repo = await self.repo(repo_id, revision, token=token)
        file = await repo.file(path)
        blocks = repo.read(file, start, file.size if end is None else end)
        return b"".join([bytes(block) async for block in blocks])
