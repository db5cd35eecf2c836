"""Every cap on what another peer, a manifest or a file can make us do, and every constant of the protocol.

The unit stands last in each name and the reason beside each value. A limit is checked before anything is allocated.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- values: chunks, manifests, statements -----------------------------------------------------------------------
CHUNK_BYTES = MIB
"""Where a tensor or a plain file is cut. Measured: hashing and writing are flat from 256 KiB up; 1 MiB keeps
the first verified byte of a 1 Mbit/s link within the ten seconds that ML clients wait."""
CHUNK_BYTES_LARGE = 4 * MIB
"""Used for tensors from `LARGE_TENSOR_BYTES` on, and for other files above `LARGE_FILE_BYTES`: a model of 810 GB in
large tensors has 200,000 chunks; one of 681 GB in tensors of 14 MiB has 650,000, still within what an index holds."""
LARGE_TENSOR_BYTES = 256 * MIB
"""A matter of the tensor and not of its file: otherwise a model in one file shares nothing with itself in shards."""
CHUNK_BYTES_MAX = 4 * MIB
"""The longest chunk that is accepted: one receive buffer."""
LARGE_FILE_BYTES = 16 * GIB
SMALL_TENSOR_BYTES = 64 * KIB
"""Tensors below this are gathered into runs; a chunk for each would cost more in hashes than it saves."""
TENSOR_GROUP_BYTES = 256 * KIB
"""How many bytes of small tensors share a chunk on the average: what one that is added or gone costs."""
CHUNKS_PER_MODEL_MAX = 1 << 21
"""2 TiB at 1 MiB; keeps a have-map at 256 KiB."""
OBJECT_BYTES_MAX = 16 * MIB
"""A manifest or one file's chunk list: 466,033 chunks, 1.8 TiB at 4 MiB a chunk."""
CHUNKS_PER_FILE_MAX = OBJECT_BYTES_MAX // 36
BUNDLED_LISTS_BYTES_MAX = 256 * KIB
"""Chunk lists that come with a manifest where that is asked for, in one answer: those of 7 GiB in chunks of 1 MiB. On a
longer fetch another round trip is not felt."""
BUNDLED_LISTS_MAX = 64
"""Each is looked up by itself where it is sent."""
BUNDLED_MANIFEST_BYTES_MAX = 64 * KIB
"""A longer manifest (some 200 files) comes alone: to look for the lists in it would cost the sender milliseconds."""
MANIFEST_FILES_MAX = 16_384
MANIFEST_BYTES_MAX = 8 * MIB
FILE_BYTES_MAX = 1 << 44
"""16 TiB: ext4's own limit, and far below the 2**53 that JSON numbers carry exactly."""
PATH_BYTES_MAX = 1024
PATH_COMPONENT_BYTES_MAX = 255
PATH_DEPTH_MAX = 32
STATEMENT_BYTES_MAX = 16 * KIB
STATEMENTS_PER_MODEL_MAX = 64
MESSAGE_TEXT_CHARS_MAX = 2_000
"""The publisher's `--message`."""
TENSOR_HEADER_BYTES_MAX = 100 * MIB
"""The safetensors library's own limit; a GGUF header with a large vocabulary stays below 20 MiB."""
TENSOR_INDEX_BYTES_MAX = 64 * MIB
"""Of the index of a sharded model: a hundred bytes for each of several hundred thousand tensors."""
TENSORS_MAX = 1_000_000
GGUF_DEPTH_MAX = 4
"""Nested arrays in GGUF metadata; real files have none."""

# --- the peer wire -----------------------------------------------------------------------------------------------
PROTOCOL_VERSION = 1
PROTOCOL_VERSION_MIN = 1
RECORD_BYTES = MIB
"""Of an answer in one record at the most: a chunk of the usual length, so that what a record costs is paid once for it.
Sealed or not, its bytes come into the buffer where they are to stand: no other has to be held meanwhile."""
RECORD_BYTES_SLOW = 256 * KIB
"""The same where a chunk takes longer than 50 ms to leave: a message waits for the record before it."""
RECORD_MARGIN_BYTES = 16
"""Room before and behind bytes in memory that are to be sealed where they lie: for a header, and for the tag."""
CONTROL_BYTES_MAX = 320 * KIB
"""A control message: a have-map of `CHUNKS_PER_MODEL_MAX` chunks is 256 KiB. To look at so much takes half a ms."""
SHORT_MESSAGE_BYTES_MAX = 16 * KIB
"""Any other message, fields of a later version included: to skip 320 KiB of those takes a ms and a half."""
STATEMENTS_PER_ANSWER_BYTES_MAX = 256 * KIB
RECORDS_PER_KEY = 1 << 16
"""64 GiB of full records, then the key is changed: three orders below the AES-GCM bound of RFC 8446 section 5.5."""
LANES_PER_CHANNEL_MAX = 4
"""TCP connections to one peer where the path is long: measured at 1 Gbit/s and 80 ms, one carries 30 MB/s, four 110."""
LANES_NEAR = 2
"""The same where the path is short and much is to come: a thread works for each on both sides (measured on loopback,
two busy CPUs: encrypted one carries 0.53 GB/s, two 0.60; in the clear 0.79 and 1.01)."""
LANES_IN_ALL_MAX = 256
"""Connections beyond the first that peers may open to us, all together."""
LANE_TOKEN_BYTES = 16
YIELD_TARGET_S = 0.005
"""The queue that a connection in the background may cause: RFC 6817 allows 100 ms, but routers with short queues drop
before that, and then it would take its share like anybody else."""
YIELD_TARGET_S_MIN = 0.0015
"""Where the path is shorter than that: the kernel's clock has steps of a millisecond."""
YIELD_WINDOW_BYTES_MIN = 4 * 1448
YIELD_WINDOW_BYTES_START = 10 * 1448
"""As a connection begins by itself (RFC 6928)."""
HANDSHAKE_BYTES_MAX = 16 * KIB
HANDSHAKE_TIMEOUT_S = 9.0
"""A half-open connection is cut then: on a busy machine too before the ten seconds that libtorrent gives."""
CONNECT_TIMEOUT_S = 5.0
CONNECTIONS_MAX = 512
CONNECTIONS_INCOMING_MAX = 448
"""Those that others opened: the rest is kept for our own, so that no crowd at the door stops a fetch."""
CONNECTIONS_PER_HOST_MAX = 64
"""Peers from one address; loopback is exempt, so that a whole network of peers can run on one machine."""
CONNECTIONS_PER_GROUP_MAX = 224
"""Peers from one /24 or /48: half of all, so that a whole computing centre may come and never shuts others out."""
CONNECTION_IDLE_S = 30.0
CONNECTION_IDLE_BYTES = 64 * KIB
"""Whoever has been here so long and moved no more than this may have to leave for somebody else when all is full."""
HALF_OPEN_MAX = 128
"""Descriptors, with those of open connections and files, stay below the usual 1,024 of a process."""
HALF_OPEN_PER_GROUP_MAX = 64
"""As many as of one address. A group has no more under way at once; its own eldest makes room for its newest."""
SEND_QUEUE_BYTES_MAX = 4 * MIB
"""Control bytes queued to a peer that does not read; past it the connection is closed."""
SEND_QUEUES_BYTES_MAX = 64 * MIB
"""The same over all peers; past it every connection is closed for which more than one long message waits."""
UPLOAD_SLOTS_MIN, UPLOAD_SLOTS_MAX = 4, 8
"""Answers that leave at once (BitTorrent: 4; libtorrent: 8). Few pass a chunk on soon, many fill long paths."""
UPLOADS_MAX = 64
"""The same with those that crawl: each holds up nobody but itself, and a buffer."""
OWED_ANSWERS_MAX = 4
"""What a peer may have had of us, beyond twice what it gave, before others come first, in chunks of the longest kind
that it was sent: it begins with something, and honest peers too want more of each other now and less later."""
REQUESTS_PER_PEER_MAX = 256
"""Chunk requests that a peer may have waiting with us."""
CHUNKS_ASKED_PER_MESSAGE_MAX = 64
"""As many as are ever asked of one peer at a time for one model."""
OBJECTS_OUT_BYTES_MAX = 64 * MIB
"""Manifests and chunk lists that are on their way out; each counts once, however many ask for it."""
MODELS_PER_PEER_MAX = 256
"""Models that one connection may subscribe to."""
HAVES_PER_MESSAGE_MAX = 1_024
"""So many cost the receiver half a ms; who has more to tell sends the next message, or a have-map."""
LINKS_PER_FETCH_ENOUGH = 24
"""Connections that a fetch opens while every missing chunk has a holder among them; others may connect to us as well.
Each chunk is told to every one, so in a crowd more would cost more than they bring (Kraken: 10, BitTorrent: 50)."""
LINKS_PER_FETCH_MAX = 64
"""The same where some missing chunk has no holder among them yet, and nothing else comes either."""
LINKS_PER_CROWD_MAX = 40
"""Who pulls a model and has so many connections for it names others to whoever comes then, and hangs up: everybody in
a crowd knows those who came first, and would ask them alone. Measured with 200 peers: one had 200, 188 waited there."""
IDLERS_REMEMBERED_MAX = 1_024
"""Peers that left a fetch without having given anything: what they did is known when they come back, and is in the
report. More than can be connected at once."""
DIALS_WAITING_MAX = 64
"""Connections that one fetch may have under way or waiting for their turn; others are dialled in a later round."""
SUGGESTED_DIALS_MAX = 512
"""Dials that other peers can cause in one fetch by naming addresses: no fetch becomes a tool to scan others."""
PEERS_PER_MESSAGE_MAX = 32
"""Peers that one peer tells another of, for one model."""
PROBES_PER_MESSAGE_MAX = 16
"""Chunks that a peer is asked for the models of: one fifth of the chunks in common is noticed in 97 of 100 cases."""
MODELS_PER_ANSWER_MAX = 8
"""Models that it then names, those that share most first: more would hardly add chunks."""
RELATIVES_PER_FETCH_MAX = 8
"""Models that share chunks with the one that is fetched and whose holders are asked for those."""
RELATIVES_PER_PEER_MAX = 2
"""So many of them may have been named by one peer: whoever invents some leaves room for others' true ones."""
RELATIVE_CHUNKS_MIN, RELATIVE_SIZE_MAX = 65_536, 4
"""A related model may have so many chunks, or so many times as many as the fetched one: its lists must be read."""
BULK_BUFFER_BYTES_MAX = 64 * MIB
"""Answers on their way in, over all connections, and as much again on their way out; when it is used up, reading
pauses: as many chunks as are in flight, and each slow peer one more."""
BULK_GRACE_S = 30.0
BULK_BYTES_PER_S_MIN = 8 * KIB
"""An answer that has begun must be whole after the grace and its length at this rate, for it holds a shared buffer.
A seed with 1 Mbit/s that serves ten at once stays above it."""
BULK_STRANGERS_PART = 0.5
"""Of the buffers for answers on their way in, what connections may hold that have not brought a whole one yet: so no
crowd that only begins takes them all."""
BULK_BLANK_BYTES = 64 * KIB
"""What a connection that has not brought a whole answer yet may bring of one before that counts for those buffers: so
who begins an answer and lets it drip keeps nobody from one. 448 of them: 28 MiB."""
BULK_CROWDED_S = 0.25
BULK_CROWDED_BYTES_PER_S = 64 * KIB
"""Where an answer waits for a buffer, the slowest of those that have held one for so long at less than this ends: so
long a crowd can keep the first answer of who will deliver waiting, if it takes the trouble to bring something."""
IDLE_TIMEOUT_S = 120.0
KEEPALIVE_S = 45.0
AGENT_CHARS_MAX = 64

# --- download ----------------------------------------------------------------------------------------------------
IN_FLIGHT_BYTES_MAX = 32 * MIB
"""Requested and not yet verified, over all peers that have delivered: what a `kill -9` can cost. Of those that have
not, and may never send it, nothing more is asked where all together owe as much."""
IN_FLIGHT_BYTES_FAR_MAX = IN_FLIGHT_BYTES_MAX * 3 // 4
"""Past this nothing more is asked of a peer while a nearer one delivers: the rest is room for that one's window."""
QUEUES_MAX = 12
"""Peers at which we wait for our turn when as much is in flight as may be, before others are asked only for what is
rare, or instead of those: with 8 requests at each peer of a crowd 8 of 9 lines are busy, and more only makes queues."""
IN_FLIGHT_BYTES_STRANGERS_MAX = IN_FLIGHT_BYTES_MAX * 3 // 4
"""Asked of peers that have not delivered yet, while somebody does: who only promises must not fill the rest."""
STRANGERS_SPARED_S = 0.25
"""Who has not delivered yet is asked for nothing that those who do deliver bring within this, at the end of a fetch:
that a stranger keeps it would be noticed no sooner."""
REQUEST_WINDOW_CHUNKS_MIN = 2
REQUEST_WINDOW_CHUNKS_START = 4
REQUEST_WINDOW_CHUNKS_MAX = 64
REQUEST_DEADLINE_MIN_S = 2.0
REQUEST_DEADLINE_MAX_S = 20.0
"""libtorrent's piece timeout."""
WINDOW_ROUND_TRIPS = 2.0
"""Work kept queued at a peer, in multiples of its rate times its shortest response time: once to fill the path, once
more for answers that are held up by a loss (measured at 1 Gbit/s and 80 ms: with 1.25 a GiB takes a tenth longer)."""
REQUEST_TURN_S = 0.02
"""Work kept queued at a peer at least, in time: so long it may take from a request to the written chunk, on a path
without length (two threads and two loops; measured 6 to 12 ms at a GB/s). A fast peer nearby runs dry without it."""
RANDOM_FIRST_CHUNKS = 4
"""The first chunks are taken at random (libtorrent), so that peers who start together hold different ones."""
DUPLICATE_REQUESTS_MAX = 2
"""Peers asked for the same chunk in the end game."""
DUPLICATE_PART_MAX = 0.003
DUPLICATE_BYTES_MIN = 2 * MIB
"""Second copies in the end game are asked for until so much has come twice: part of what has come at all, at least
this. Then a chunk that is late waits for its deadline; all peers of a crowd end at the same time."""
REQUESTS_BEGUN = 2
"""Of what a peer owes, so many may be leaving it: one on the line and one made ready. The rest can be withdrawn."""
REFUSALS_IN_A_ROW_MAX = 4
"""A chunk or two may have gone since a peer told of them; then it is paused."""
CLAIM_INTERVAL_S = 4.0
"""With the barrier's own time a power cut takes back the claims of at most five seconds."""
CLAIM_BYTES = 4 * GIB
"""Verified bytes become durable claims in batches: an fsync for each 16 KiB would cap at 3 MB/s (iroh), and one for
each 256 MiB took a quarter of a 2 GiB transfer (measured). What a power cut finds unclaimed is hashed, not fetched."""
FETCH_MISS_S = 3.0
"""A model that nobody holds is reported within this time."""
FETCH_STALL_S = 30.0
"""With nobody left who holds what is missing, a fetch gives up after this long; what arrived is kept."""
FETCH_PATIENCE_S = 600.0
"""The same where peers say that they hold it and nothing comes: a low upload limit makes pauses of minutes."""

# --- the overlay -------------------------------------------------------------------------------------------------
OVERLAY_KEY_BYTES = 20
"""Kademlia's 160 bits; content is checked by its full hash, so an index key may be short."""
BUCKET_SIZE = 20
"""k of the Kademlia paper; Kubo's value too."""
LOOKUP_PARALLELISM = 3
"""alpha."""
REPLY_NODES_MAX = 20
"""Measured: with 20 % silent peers a cap of 8 gives the exact closest peers in 56 % of runs, 20 in all."""
DATAGRAM_BYTES_MAX = 1_400
"""Fits an Ethernet frame over IPv6 with a tunnel's header; longer datagrams are dropped unread."""
KEYS_PER_ANNOUNCE_MAX = 50
PROVIDERS_PER_KEY_MAX = 64
PROVIDERS_PER_REPLY_MAX = 8
PROVIDER_KEYS_MAX = 1_000_000
"""Provider records held for others."""
PROVIDER_KEYS_PER_SOURCE_MAX = 250_000
PROVIDER_KEYS_PER_GROUP_MAX = 500_000
"""Records from one /24 or /48: half of all, so that a whole computing centre may publish and never shuts others out."""
PROVIDER_BATCHES_MAX = 131_072
"""Announcements that these records may come from: one that carries a single key weighs as much as eight keys."""
OUTSTANDING_RPC_MAX = 4_096
DATAGRAMS_PER_SOURCE_PER_S = 2_000
"""A token bucket for each address; an honest sweep stays far below it."""
LOOKUP_DEADLINE_S = 15.0
LOOKUP_PATIENCE_S = 2.0
"""After this a lookup of providers does not wait for nodes that are late, so that a miss is reported within three
seconds. A lookup of nodes, which has to be exact, does."""
RPC_TIMEOUT_MIN_S = 0.05
RPC_TIMEOUT_START_S = 0.5
RPC_TIMEOUT_MAX_S = 1.5
ROUND_TRIP_PEERS_MAX = 512
"""Peers whose own round trips are remembered: more than a table holds in a network of a million."""
RPC_FAILURES_MAX = 3
"""Consecutive unanswered requests after which a node leaves the table."""
RPC_GIVE_UP_MIN_S = 1.0
"""A request is repeated after its round-trip timeout and given up after three, but never before this: a peer that
hashes on a loaded machine is late, not dead."""
LOOKUP_FINAL_PARALLELISM = 10
"""Once the closest node known has answered, the rest of the k closest are asked together (Kademlia, section 2.3)."""
LOOKUP_CANDIDATES_MAX = 256
LOOKUP_QUERIES_MAX = 160
"""What one liar's answers can make a lookup ask; an honest lookup among 10,000 nodes needs about 50."""
LOOKUP_PATH_PARALLELISM = 2
"""Requests under way on each of several disjoint paths: one that is late must not stop its path."""
LOOKUP_PATH_QUERIES_MIN = 48
"""What each disjoint path may ask at least, however many there are: the k closest twice, and the way to them."""
LOOKUP_PATHS_MAX = 8
"""S/Kademlia's largest figure: 99 % of lookups succeed there with a fifth of the nodes hostile."""
ADDRESSES_PER_NODE_MAX = 2
"""Addresses that a lookup tries for one node id, so that a false one does not hide the true one."""
AMPLIFICATION_MAX = 3
"""Bytes sent to an address for each byte that came from it: the rule of QUIC (RFC 9000, section 8.1)."""
DATAGRAM_SOURCES_MAX = 4_096
"""Sources whose rate is remembered; the longest silent is forgotten first."""
CHALLENGES_PENDING_MAX = 64
PROOFS_REMEMBERED_MAX = 1_024
"""Nodes that have lately proved their key at an address and need not do so again in the next lookup."""
DIAL_BACK_HELPERS = 5
"""Neighbours who are asked together whether they can reach us: two may be silent and three still agree."""
DIAL_BACKS_PER_SOURCE_PER_S, DIAL_BACKS_PER_SOURCE_AT_ONCE = 0.2, 8
"""Datagrams sent to one address because it asked to be dialled back: an honest asker wants at most six in a minute."""
DIAL_BACKS_PER_GROUP_PER_S, DIAL_BACKS_PER_GROUP_AT_ONCE = 1.0, 32
DIAL_BACKS_PER_S, DIAL_BACKS_AT_ONCE = 20.0, 100
TOKEN_ROTATION_S = 300.0
"""BEP 5: a write token's secret changes every five minutes and the one before it is still accepted."""
RECORD_TTL_MAX_S = 49 * 3600
"""A little over the 48 hours for which Kubo keeps a provider record."""
PROVIDERS_PER_GROUP_MAX = 8
"""Providers of one key from one address group (/24, /48). Loopback and private addresses are exempt."""
PROVIDERS_PER_LOOKUP_MAX = 256
PROVIDER_PAGES_MAX = 24
"""Further pages of providers that one lookup asks for, over all holders."""
PROVIDER_ADDRESSES_MAX = 3
"""Addresses that a lookup reports for one provider: no holder can hide a provider behind a false address."""
ANNOUNCE_STATE_BYTES_MAX = 16 * MIB
"""What a node keeps of its announcing over a restart: three bytes for each of five million keys."""
CROWDED_HOLDERS_MAX = 160
"""Nodes that a key is stored with, or that are asked for it, where its nearest are too near for chance: among forty
Sybils and all the honest ones that live there, and no more however many Sybils there are."""
ANNOUNCE_WINDOW_DATAGRAMS = 64
"""Announcements in flight at once: what a default socket buffer of 200 KiB takes without loss."""
ABSENT_NEIGHBOURS_MAX = 128
"""Neighbours that fell silent and are greeted now and then: about a full table of a network of a thousand."""
NEIGHBOURS_SAVED_MAX = 1_024
NEIGHBOURS_FILE_BYTES_MAX = 256 * KIB
WITHDRAW_TIMEOUT_S = 3.0

# --- the store ---------------------------------------------------------------------------------------------------
COPY_RUN_BYTES_MAX = 64 * MIB
"""Copied from another file in one go: a tenth of a second until somebody who wants to stop is heard."""
LINKED_FILE_BYTES_MIN = 64 * KIB
"""Whole files below this are copied, not linked: they are what people edit, and save a block or two."""
OPEN_FILES_MAX = 128
"""Files kept open for serving, and as many again for a fetch: far below the usual 1,024 descriptors of a process."""
SERVING_BUFFER_BYTES_MAX = 64 * MIB
"""Chunks that were read and checked and are on their way out; past it a chunk is read once to be hashed and once more,
by pieces, to be sent, with the marks of its file looked at in between."""
SCRUB_PERIOD_S = 28 * 24 * 3600.0
"""Everything that is kept is read again once in this time: a terabyte at 0.4 MB/s, which no disk and nobody feels.
Disks lose sectors by the year (0.03 % of SSDs, 1.4 % of hard disks a year: TigerBeetle's sources)."""
SCRUB_STEP_BYTES = 4 * MIB
"""Read at once, and then paused: the largest chunk."""
SCRUB_RECHECK_BYTES_PER_S = 64 * MIB
"""For a file in doubt: 40 GB in ten minutes, a fraction of what a disk or a core can do."""
HASH_BUFFER_BYTES = CHUNK_BYTES_MAX
"""Read, hashed twice and thrown away while it is in the cache; two for each file that is being published."""
HASH_THREADS_MAX = 8
CACHE_MODELS_AT_ONCE = 3
"""Models that a peer that is a cache pulls at once."""
CACHE_MODELS_WATCHED_MAX = 1_024
"""Models of which it is remembered who asked for them; the longest not asked for is forgotten first."""
CACHE_ASKERS_PER_MODEL_MAX = 64
CACHE_ASKERS_MAX = 4_096
CACHE_TURNOVER_PER_ASKER = 0.5
"""Of its quota, what a cache fetches in an hour for one asker: nobody alone can make it fetch all anew."""
CACHE_TURNOVER_PER_H = 2.0
"""The same for all askers together."""
CACHES_PER_FETCH_MAX = 2
"""Near caches that a fetch connects to, besides those that hold the model."""
CACHES_LOOKED_AT_MAX = 64
"""Of what the overlay says of caches: anybody may say that it is one."""
FREE_DISK_FLOOR_BYTES = 256 * MIB
"""Left free by a fetch unless told otherwise: the index, logs and other programs still write."""
EVICT_BATCH_BYTES = 64 * MIB
"""Let go of at once where single chunks go: a durable commit for each would be as slow as the disk's barriers."""
SEED_DEPTH_MAX = 6
"""Directories below the one that `seed` is given: `publisher/repository/revision` and some more."""
SEED_DIRECTORIES_MAX = 10_000
SMALL_FILE_BYTES_MAX = MIB
"""Settings, trust, neighbours: files that are read and replaced whole."""

# --- control and configuration -----------------------------------------------------------------------------------
STOP_TIMEOUT_S = 10.0
API_BODY_BYTES_MAX = MIB
CONFIG_BYTES_MAX = MIB
KEY_FILE_BYTES_MAX = 16 * KIB
READ_ASKS_MAX = 1024
"""Ranges that a program waits for at once over one connection: more than tensors are loaded side by side."""
MOUNT_READ_S = 60.0
"""What a program that reads from a mount waits at most: twice the stall after which a fetch gives up."""
READ_BEHIND_FETCH_S = 60.0
"""A reader waits so long for a fetch of other files of its model: one fetch of a model is at work at a time."""
READ_FILES_OPEN_MAX = 64
"""Files of models that a reading program keeps open: the shards of a large model."""


# --- the Hugging Face endpoint -----------------------------------------------------------------------------------
LFS_BYTES_MIN = 10 * MIB
"""From this size on a file of our own repositories goes by its SHA-256, whatever it is called: the hub takes no longer
one that is not in LFS."""
PLAIN_FILES_MAX = 1_000
PLAIN_FILES_BYTES_MAX = 32 * MIB
"""Files that go by git's id are read to compute it; with more of them than this, or more bytes, all go by SHA-256."""
TREE_PAGE_ENTRIES = 1_000
"""Of a directory of a repository in one answer, as on the hub."""
PATHS_INFO_MAX = 1_000
"""Paths that are asked for at once, as on the hub."""
HUB_URL_BYTES_MAX = 8 * KIB
HUB_NAME_S = 10.0
"""How long a name goes on to mean what it meant: a client that loads a model asks for it a dozen times."""
HUB_GRACE_S = 600.0
"""How long what a client asked for goes on coming after it has gone: who starts a download again does so soon."""
HUB_REPOSITORIES_KEPT = 32
"""Manifests that stay parsed, of up to 8 MiB each."""
FIRST_BYTE_INTERIM_S = 3.0
"""A client that waits for a first byte is told so often that the request is understood: it gives up after ten seconds
of silence."""
HF_CACHE_LOCK_S = 60.0
"""How long another program may be at a file of the Hugging Face cache that we want to put there."""
COPY_BYTES = 4 * MIB
"""Read, hashed and written at once where a file has to be copied."""

# --- the origin hub ----------------------------------------------------------------------------------------------
ORIGIN_CONNECT_S = 5.0
ORIGIN_SMALL_S = 15.0
"""A question in JSON, all its redirects and the answer: clients wait ten seconds, or sixty where they are told to."""
ORIGIN_SILENCE_S = 20.0
"""Content of which nothing comes for so long is asked for again, or of somebody else."""
ORIGIN_RETRY_AFTER_MAX_S = 5.0
"""Whoever is told to come back later than this is told so, and does not wait here."""
ORIGIN_REDIRECTS_MAX = 5
ORIGIN_HEADER_BYTES_MAX = 16 * KIB
"""One header of an answer; a signed URL has two to four."""
ORIGIN_JSON_BYTES_MAX = 16 * MIB
"""One page of a tree has 1,000 entries of some 300 bytes; of an info, the names of all files."""
ORIGIN_PAGES_MAX = 200
ORIGIN_FILES_MAX = 200_000
"""Of one revision: what 200 pages of 1,000 name."""
ORIGIN_TREE_BYTES_MAX = 64 * MIB
"""That of `ORIGIN_FILES_MAX` files as it is kept on disk."""
ORIGIN_PATH_BYTES_MAX = 4_096
ORIGIN_CONNECTIONS_MAX = 16
ORIGIN_FRESH_S = 10.0
"""How long a branch is believed to stand where it stood: a client that loads a model asks for it a dozen times."""
ORIGIN_ACCESS_S = 60.0
"""How long a token is believed to open what it opened."""
ORIGIN_KEPT_REVISIONS = 256
"""Branches and trees of the origin that stay in memory."""
PLAIN_FILE_BYTES_MAX = 32 * MIB
"""A file of the origin's that is not in LFS: the hub itself takes none of more than 10 MiB."""

# --- files of the origin that nobody has published ---------------------------------------------------------------
PART_BYTES_MIN, PART_BYTES_MAX = 64 * KIB, CHUNK_BYTES_MAX
PARTS_PER_FILE = 256
"""Parts become longer until a file has no more than this, or they have their greatest length: a small file too has
enough of them to be divided among many."""
PARTS_PER_RUN = 4
"""Read from the origin in one go, by one peer: 16 MiB of a file of a gigabyte or more, in 64 runs."""
GATHER_S, GATHER_MAX_S = 0.6, 2.5
"""So long a peer looks for others who want the same before it asks the origin, for they would all read everything; and
at most so long where it has found some and does not talk to them yet."""
GATHER_LATE_S = 2.0
"""A peer that reads from the origin for all and of which nothing is heard for so long is not waited for."""
GATHERING_LINGERS_S = 60.0
"""After a file is whole its parts are given to those who still gather it."""
GATHERING_MEMBERS_MAX = 64
PARTS_ASKED_PER_PEER, PARTS_ASKED_BYTES = 4, MIB
"""Parts asked of one peer at once: so many, or short ones of so many bytes together."""
PART_DEADLINE_S = 3.0
PART_BYTES_PER_S_MIN = 256 * KIB
"""From whom nothing comes for so long, and a part's length at this rate, what was asked is asked elsewhere."""
HASH_CANDIDATES_MAX, HASH_CANDIDATES_PER_PEER_MAX = 8, 2
"""Models that are tried for one file, and of those what one peer named: each may be a lie as long as the file."""
PROBE_BYTES_MAX = MIB
"""Read from the origin at a random place to compare with what peers give, and to see how fast the origin is: at most a
hundredth of the file."""
HELD_BACK_BYTES = 64 * MIB
"""Of a file up to this length nothing that came from peers is given out before all of it is proven; of a longer one
the last part is not."""
SUPPLY_LINGERS_S = 600.0
"""A file on its way is got for so long after nobody reads it any more: whoever hung up comes back."""
PROOFS_MAX = 20_000
PROOFS_BYTES_MAX = 8 * MIB
"""Files whose SHA-256 was computed, some 150 bytes each."""
ORIGIN_LEFT_S = 7 * 86400.0
"""What was read from the origin and is no model, an unfinished or private file, stays so long after its last use."""
DRAFT_HASH_BYTES = 8 * MIB
"""Hashed in one go while a file arrives."""
DRAFT_CLAIM_BYTES = 256 * MIB
DRAFT_CLAIM_S = 4.0
"""What has arrived is made durable and noted so often."""
DRAFTS_OPEN_MAX = 64
"""Files that are on their way at once."""
FROM_ORIGIN_STREAMS = 2
"""Readings from the origin under way for one file: while one waits for an answer the other fills the line."""
