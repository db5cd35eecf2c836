"""The receive path and the five answers: hello, find_node, get_providers, announce, dial_back.

Everything that comes in is hostile until checked, in the order of cost: length, source rate, types, network, then
tokens and signatures. A datagram that fails is dropped without a word, a task or an exception. A reply, together with
the challenge that a request may provoke, has at most `AMPLIFICATION_MAX` times the bytes of the request, whoever asks.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from p2pmodel.errors import DecodeError
from p2pmodel.limits import (
    AMPLIFICATION_MAX,
    BUCKET_SIZE,
    CHALLENGES_PENDING_MAX,
    DATAGRAM_BYTES_MAX,
    PROOFS_REMEMBERED_MAX,
    PROVIDERS_PER_REPLY_MAX,
)
from p2pmodel.model import PublicKey, SecretKey
from p2pmodel.net import Address, Clock
from p2pmodel.overlay.calls import Calls
from p2pmodel.overlay.density import NetworkSize
from p2pmodel.overlay.dial_back import Awaited, DialBacks, SendAside
from p2pmodel.overlay.node_id import (
    LOCAL,
    NO_ID,
    NONCE_BYTES,
    NOWHERE,
    PROOF_BYTES,
    PUBLIC,
    address_of,
    challenge_for,
    challenged_address,
    check_proof,
    node_id,
    prove,
    reach,
)
from p2pmodel.overlay.package import FRAME_BYTES, REPLY, Contact, FrameProtocol, frame
from p2pmodel.overlay.provider_store import ProviderStore
from p2pmodel.overlay.rate import SourceRates
from p2pmodel.overlay.records import Batch, merkle_root, signed_message, split_keys
from p2pmodel.overlay.routing import RoutingTable
from p2pmodel.overlay.tokens import Tokens
from p2pmodel.overlay.wire import (
    BAD_TOKEN,
    REFUSED,
    SEQUENCE_MAX,
    STALE,
    STORED,
    AnnounceReply,
    AnnounceRequest,
    DialBackRequest,
    DialledRequest,
    FindNodeRequest,
    GetProvidersRequest,
    HelloReply,
    HelloRequest,
    NodesReply,
    ProvidersReply,
    Reply,
    WireEvidence,
    decode_request,
    encode_reply,
    pack_nodes,
)

_HELLO_BYTES = 110
"""The longest challenge that we send."""
_CHALLENGE_AGAIN_S = 5.0
_CHALLENGED_MAX = 256
_PROOF_HOLDS_S = 600.0
_BAD_SIGNATURE_COST = 50.0
"""A verification costs what fifty small requests do."""
_REPLY_HEAD_BYTES = FRAME_BYTES + 1 + 2 + PROOF_BYTES + 10
"""Frame, array, proof and token."""


@dataclass(slots=True)
class Traffic:
    """Datagrams and bytes since the start."""

    datagrams_in: int = 0
    datagrams_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class OverlayProtocol(FrameProtocol):
    """One node's socket: table, records, calls. It starts nothing by itself but the challenge of a newcomer."""

    _outstanding: dict[bytes, Any]

    def __init__(
        self,
        node: Any,
        storage: Any,
        *,
        key: SecretKey,
        network_id: bytes,
        clock: Clock,
        rng: random.Random,
        table: RoutingTable,
        client_only: bool,
        own_evidence: Callable[[bytes], WireEvidence | None],
        send_aside: SendAside = lambda datagram, to: False,
        open_aside: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(node, storage, BUCKET_SIZE)
        self.router = table
        self.table = table
        self.key = key
        self.network_id = network_id
        self.clock = clock
        self.rng = rng
        self.client_only = client_only
        """Nobody is answered, and our id is told to nobody. May change while the node runs."""
        self.own_id = node_id(key.public)
        self.calls = Calls(self._outstanding, self.send, clock, rng)
        self.providers = ProviderStore()
        self.rates = SourceRates()
        self.traffic = Traffic()
        self.network_size = NetworkSize()
        self._tokens = Tokens(rng.randbytes(32))
        self.dial_backs = DialBacks(network_id, rng, self._counted(send_aside), open_aside)
        self.awaited = Awaited()
        self.dialled_at: dict[int, str] = {}
        """For each IP version our public address as the last who asked for a proof wrote it; anybody can lie."""
        self._own_evidence = own_evidence
        self._challenged: OrderedDict[tuple[bytes, Address], float] = OrderedDict()
        self._challenges_pending = 0
        self._proved: OrderedDict[tuple[bytes, Address], float] = OrderedDict()

    def send(self, datagram: bytes, to: Address) -> None:
        if self.transport is not None:
            self.traffic.datagrams_out += 1
            self.traffic.bytes_out += len(datagram)
            self.transport.send(datagram, to)

    def _counted(self, send_aside: SendAside) -> SendAside:
        def send(datagram: bytes, to: Address) -> bool:
            sent = send_aside(datagram, to)
            if sent:
                self.traffic.datagrams_out += 1
                self.traffic.bytes_out += len(datagram)
            return sent

        return send

    @property
    def sender_id(self) -> bytes:
        """What we call ourselves in requests."""
        return NO_ID if self.client_only else self.own_id

    # --- receive path ---------------------------------------------------------------------------------------------

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.traffic.datagrams_in += 1
        self.traffic.bytes_in += len(data)
        super().datagram_received(data, addr)

    def reply_received(self, message_id: bytes, body: bytes, source: Address) -> None:
        self.calls.received(message_id, body, source)

    def request_received(self, message_id: bytes, body: bytes, source: Address) -> None:
        if (self.client_only and not self.awaited) or reach(source.host) == NOWHERE:
            return
        now = self.clock.monotonic()
        if not self.rates.allow(source, now):
            return
        try:
            request = decode_request(body)
            if request.network != self.network_id:
                return
            if isinstance(request, DialledRequest):
                self.awaited.received(request.nonce, source)
                return
            if self.client_only or request.sender == self.own_id:
                return
            asked_bytes = FRAME_BYTES + len(body)
            room = AMPLIFICATION_MAX * asked_bytes
            if isinstance(request, DialBackRequest):
                reply: Reply = self.dial_backs.answer(request, source, asked_bytes, now)
            elif isinstance(request, AnnounceRequest):
                reply = self._store(request, source, now)
            else:
                if self._challenge(request.sender, source, now):
                    room -= _HELLO_BYTES
                reply = self._answer(request, source, min(room, DATAGRAM_BYTES_MAX), now)
        except DecodeError:
            return
        datagram = frame(REPLY, message_id, encode_reply(reply))
        if len(datagram) <= room:
            self.send(datagram, source)

    def _answer(
        self, request: HelloRequest | FindNodeRequest | GetProvidersRequest, source: Address, room: int, now: float
    ) -> Reply:
        proof = self._proof(request.challenge)
        token = self._tokens.issue(source, now)
        if isinstance(request, HelloRequest):
            return HelloReply(proof, token)
        room -= _REPLY_HEAD_BYTES + 6
        if isinstance(request, FindNodeRequest):
            nodes4, nodes6 = self._nodes(request.target, request.sender, room)
            return NodesReply(proof, token, nodes4, nodes6)
        return self._find_providers(request, proof, token, room, now)

    # --- answers --------------------------------------------------------------------------------------------------

    def _nodes(self, target: bytes, asker: bytes, room: int) -> tuple[bytes, bytes]:
        nearest = self.table.nearest(int.from_bytes(target, "big"), BUCKET_SIZE + 1, reliable=True)
        return pack_nodes((contact.packed for contact in nearest if contact.id != asker), room)

    def _find_providers(
        self, request: GetProvidersRequest, proof: bytes, token: bytes, room: int, now: float
    ) -> ProvidersReply:
        """Half of the room is for nodes, where there are providers to name; the reader asks again for the rest."""
        room -= 5
        providers: list[WireEvidence] = []
        own = self._own_evidence(request.key)
        if own is not None:
            providers.append(own)
            room -= _size(own)
        total, batches = self.providers.find(request.key, request.start, now)
        nodes4, nodes6 = self._nodes(request.key, request.sender, room // 2 if total else room)
        room -= len(nodes4) + len(nodes6)
        for batch in batches:
            evidence = batch.evidence(request.key, now)
            room -= _size(evidence)
            if room < 0 or len(providers) >= PROVIDERS_PER_REPLY_MAX:
                break
            providers.append(evidence)
        return ProvidersReply(proof, token, nodes4, nodes6, min(total + (own is not None), 0xFFFF), providers)

    def _store(self, request: AnnounceRequest, source: Address, now: float) -> AnnounceReply:
        """Keep or withdraw what the sender announces. The token shows that it is where the datagram came from."""
        peer = PublicKey(request.peer)
        known = self.providers.sequence_of(peer)

        def result(status: int, stored: int = 0) -> AnnounceReply:
            return AnnounceReply(status, stored, self._tokens.issue(source, now), min(known, SEQUENCE_MAX))

        if not self._tokens.check(request.token, source, now):
            return result(BAD_TOKEN)
        if request.sender not in (NO_ID, node_id(peer)):
            return result(REFUSED)
        keys = split_keys(request.keys)
        if not keys and request.ttl_s:
            return result(REFUSED)
        message = signed_message(
            self.network_id,
            self.own_id,
            request.port,
            request.ttl_s,
            request.sequence,
            len(keys),
            merkle_root(keys),
        )
        if not peer.verify(request.signature, message):
            self.rates.charge_source(source, _BAD_SIGNATURE_COST, now)
            return result(REFUSED)
        if self.providers.is_stale(peer, request.sequence):
            return result(STALE)
        if not request.ttl_s:
            return result(STORED, self.providers.withdraw(peer, keys, request.sequence))
        batch = Batch(
            peer=peer,
            source=Address(source.host, request.port),
            ttl_s=request.ttl_s,
            sequence=request.sequence,
            keys=keys,
            signature=request.signature,
            expires_at=now + request.ttl_s,
        )
        stored = self.providers.add(batch, now)
        return result(STORED if stored else REFUSED, stored)

    # --- identity -------------------------------------------------------------------------------------------------

    def _proof(self, challenge: bytes) -> bytes:
        """Our signature, where one is asked for and the asker means us.

        On a socket bound to one public or loopback address we know what address others must have dialled; a
        challenge for any other is somebody's attempt to pass our answer off as its own.
        """
        if not challenge:
            return b""
        assert self.transport is not None
        dialled = address_of(challenged_address(challenge))
        if reach(dialled.host) == PUBLIC:
            self.dialled_at[dialled.ip.version] = dialled.host
        own = self.transport.address
        if reach(own.host) not in (NOWHERE, LOCAL) and challenged_address(challenge) != own.pack():
            raise DecodeError("a challenge for another address")
        return prove(self.key, self.network_id, challenge)

    def new_challenge(self, dialled: Address) -> bytes:
        return challenge_for(self.rng.randbytes(NONCE_BYTES), dialled)

    def learn(self, proof: bytes, challenge: bytes, address: Address, expected: bytes | None = None) -> bytes | None:
        """Check a proof and enter who gave it in the table. Returns its id, or None where it does not hold."""
        peer = check_proof(proof, self.network_id, challenge)
        if peer is None:
            return None
        found = node_id(peer)
        if found == self.own_id or (expected is not None and found != expected):
            return None
        now = self.clock.monotonic()
        self._proved[found, address] = now
        self._proved.move_to_end((found, address))
        if len(self._proved) > PROOFS_REMEMBERED_MAX:
            self._proved.popitem(last=False)
        doubtful = self.table.add(Contact(found, peer, address, now), now)
        if doubtful is not None:
            self.probe(doubtful)
        return found

    def has_proved(self, node: bytes, address: Address) -> bool:
        """Whether `node` has lately proved its key at `address`: it is not asked to do so in each lookup."""
        return self.clock.monotonic() - self._proved.get((node, address), -1e9) < _PROOF_HOLDS_S

    def _challenge(self, sender: bytes, source: Address, now: float) -> bool:
        """Ask an unknown sender for its key, where the table has a use for it. Says whether it did."""
        if sender == NO_ID or self._challenges_pending >= CHALLENGES_PENDING_MAX:
            return False
        if not self.table.wants(sender, source):
            return False
        if self.table.get(sender) is None and now - self._challenged.get((sender, source), -1e9) < _CHALLENGE_AGAIN_S:
            return False
        self._challenged[sender, source] = now
        if len(self._challenged) > _CHALLENGED_MAX:
            self._challenged.popitem(last=False)
        challenge = self.new_challenge(source)

        def answered(reply: Reply) -> None:
            assert isinstance(reply, HelloReply)
            self._challenges_pending -= 1
            if self.learn(reply.proof, challenge, source, sender) is not None:
                self._challenged.pop((sender, source), None)

        def failed() -> None:
            self._challenges_pending -= 1

        self._challenges_pending += 1
        request = HelloRequest(self.network_id, self.sender_id, challenge)
        # Never repeated: the sender's address is not proven, and may be somebody else's.
        self.calls.start(source, request, on_reply=answered, on_failed=failed, repeat=False)
        return True

    def probe(self, contact: Contact) -> None:
        """Ask a contact for a proof of life; where none comes, a proven newcomer takes its place."""
        challenge = self.new_challenge(contact.address)

        def answered(reply: Reply) -> None:
            assert isinstance(reply, HelloReply)
            peer = check_proof(reply.proof, self.network_id, challenge)
            if peer == contact.peer:
                self.table.seen(contact, self.clock.monotonic())
            else:
                self.table.drop(contact)

        request = HelloRequest(self.network_id, self.sender_id, challenge)
        self.calls.start(contact.address, request, on_reply=answered, on_failed=lambda: self.table.drop(contact))

    def greet(self, contact: Contact) -> None:
        """Ask a contact whether it is there. Three silences, counted with those in lookups, and it leaves."""
        self.calls.start(
            contact.address,
            HelloRequest(self.network_id, self.sender_id, b""),
            on_reply=lambda _: self.table.seen(contact, self.clock.monotonic()),
            on_failed=lambda: self.table.failed(contact),
        )


def _size(evidence: WireEvidence) -> int:
    """Upper bound of its encoding: heads and numbers 40, the fields of fixed length, the path."""
    return 40 + 32 + 64 + len(evidence.address) + len(evidence.path)
