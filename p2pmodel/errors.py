"""Every way in which p2pmodel can fail, in two families that are never mixed.

`PeerFault`: another peer did wrong. The connection is dropped, the peer scored, the work goes on elsewhere; a person
sees one only in a log. Everything else is ours or the user's: the operation stops and the message says what to do.
Each class carries the exit code with which a command that meets it ends.
"""

from __future__ import annotations


class P2PModelError(Exception):
    """The root of the hierarchy; `exit_code` is the process status of a command that ends with it."""

    exit_code = 1


class PeerFault(P2PModelError):
    """Another peer broke the protocol, lied, stalled or went away. Never ends a download by itself."""


class DecodeError(PeerFault):
    """Bytes that are not a valid encoding of what they should be. The only error that a decoder raises."""


class ProtocolError(PeerFault):
    """A well-formed message that must not come now, or a limit that was passed."""


class HandshakeError(PeerFault):
    """No authenticated connection came about: wrong key, other network, no common version, or silence."""


class CorruptChunkError(PeerFault):
    """A peer sent bytes that do not have the hash that was asked for."""


class PeerGoneError(PeerFault):
    """The connection ended, could not be made, or stood still past its deadline."""


class UsageError(P2PModelError):
    """The command or call cannot be carried out as it was written."""

    exit_code = 2


class NotFoundError(P2PModelError):
    """The model, file, key or name is neither here nor known to any peer that was asked."""

    exit_code = 3


class RepositoryNotFoundError(NotFoundError):
    """No source of the Hugging Face endpoint knows a repository of this name."""


class RevisionNotFoundError(NotFoundError):
    """The repository is known, and this revision of it is not."""


class EntryNotFoundError(NotFoundError):
    """The repository has no such file or directory at this revision."""


class NetworkError(P2PModelError):
    """A port could not be had, an address not be reached."""

    exit_code = 4


class ServiceGoneError(NetworkError):
    """The process that was asked to do it ended before it was done. What has arrived is kept."""


class RateLimitedError(NetworkError):
    """The origin has had too many requests, and says when it will take more."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NoPeersError(NetworkError):
    """Nobody to ask, or nobody left who holds what is missing. What has arrived is kept."""


class FetchTimeoutError(P2PModelError):
    """The time that the caller allowed has passed. What has arrived is kept."""

    exit_code = 5


class VerificationError(P2PModelError):
    """Bytes on this disk are not what the manifest says, or changed while they were read."""

    exit_code = 6


class StaleBytesError(VerificationError):
    """What was given out of this file before was wrong: nobody may go on from there."""


class SignatureError(VerificationError):
    """A signature that was asked for is missing or does not hold."""


class MalformedModelError(P2PModelError):
    """The model's files are not what their format asks for: whoever published them did so; every byte is as signed."""


class NoSpaceError(P2PModelError):
    """The disk or the quota is full. What has arrived is kept."""

    exit_code = 7


class RefusedError(P2PModelError):
    """Not allowed: a key that is not trusted, a file without permission, a directory that another peer owns."""

    exit_code = 8


class GatedError(RefusedError):
    """The repository is private, or its owner asks for a token that was not given or does not open it."""


class DirectoryInUseError(RefusedError):
    """Another process owns the data directory, and keeps it until it ends."""


class DaemonNotRunningError(P2PModelError):
    """The command needs a running daemon and this data directory has none."""

    exit_code = 9


class InterruptedFetchError(P2PModelError):
    """The user stopped it. What has arrived is kept."""

    exit_code = 130
