"""WHAT is it? Immutable values: digests, paths, chunk lists, manifests, have-maps, statements. No IO, no clock."""

from p2pmodel.model.bundle import FOOTER_BYTES, Bundle, bundled, encode_bundle
from p2pmodel.model.chunk_list import Chunk, ChunkList
from p2pmodel.model.digest import Digest, ModelId, Sha256
from p2pmodel.model.have_map import HaveMap
from p2pmodel.model.keys import PublicKey, SecretKey
from p2pmodel.model.layout import ChunkPlace, Layout, check_chunk_list
from p2pmodel.model.manifest import CHUNKER, FileEntry, Manifest
from p2pmodel.model.paths import PortablePath, clash
from p2pmodel.model.reference import Reference, check_name_part
from p2pmodel.model.statement import SignedStatement, Statement, open_statement, sign_statement

__all__ = [
    "CHUNKER",
    "FOOTER_BYTES",
    "Bundle",
    "Chunk",
    "ChunkList",
    "ChunkPlace",
    "Digest",
    "FileEntry",
    "HaveMap",
    "Layout",
    "Manifest",
    "ModelId",
    "PortablePath",
    "PublicKey",
    "Reference",
    "SecretKey",
    "Sha256",
    "SignedStatement",
    "Statement",
    "bundled",
    "check_chunk_list",
    "check_name_part",
    "clash",
    "encode_bundle",
    "open_statement",
    "sign_statement",
]
