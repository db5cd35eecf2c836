"""What the demo tells: each step in words for somebody who sees the system for the first time."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from p2pmodel.cli.output import columns, count, data, listed
from p2pmodel.peer.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from p2pmodel.cli.demo_model import DemoModel
    from p2pmodel.cli.demo_peers import DemoPeer
    from p2pmodel.peer.reports import FetchReport, PublishReport

_WIDTH_MAX = 100
_UNIT = re.compile(r"(?<=\d) (?=(?:[KMGT]i)?B\b|s\b|min\b)")
_KEEP_TOGETHER = "\N{NO-BREAK SPACE}"


class Story:
    """Writes to stdout, or nowhere where the result is asked for as JSON."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._bold = sys.stdout.isatty() and not _no_color()
        self._width = min(_WIDTH_MAX, shutil.get_terminal_size((_WIDTH_MAX, 24)).columns)
        self._step = 0

    def _say(self, line: str = "") -> None:
        if not self._silent:
            data(line)

    def _head(self, text: str, *, numbered: bool = True) -> None:
        if numbered:
            self._step += 1
            text = f"{self._step}. {text}"
        self._say()
        self._say(f"\x1b[1m{text}\x1b[0m" if self._bold else text)

    def _text(self, paragraph: str) -> None:
        joined = _UNIT.sub(_KEEP_TOGETHER, paragraph)  # a number and its unit stay on one line
        for line in textwrap.wrap(joined, self._width - 3, break_long_words=False, break_on_hyphens=False):
            self._say(f"   {line.replace(_KEEP_TOGETHER, ' ')}")

    def opening(self, peers: int, size_bytes: int) -> None:
        self._say(
            f"One model of {format_size(size_bytes)}, {count(peers, 'peer')}, this machine alone. Ctrl-C stops it."
        )

    def started(self, peers: Sequence[DemoPeer]) -> None:
        self._head("The peers start")
        self._text(
            "Each is a process of its own with its own directory, port and key. A peer's name is its public key, so "
            "every connection proves who is at the other end, and is encrypted. Peer 1 is the entry: the others know "
            "its address and learn of each other through it. No server knows them all."
        )
        self._table([(f"peer {peer.number}", peer.peer_id[:16] + "...", peer.listen) for peer in peers])

    def made(self, model: DemoModel) -> None:
        self._head("A model is made")
        self._text(
            f"{count(model.tensors, 'tensor')} of random numbers in model.safetensors, with config.json and "
            f"tokenizer.json: {format_size(model.bytes_total)}."
        )

    def published(self, report: PublishReport) -> None:
        self._head("Peer 1 publishes it")
        self._say(f"   model id  {report.model_id}")
        self._text(
            "The id is the BLAKE3 hash of the model's manifest, and the manifest leads to the hash of every file and "
            f"of each of the {count(report.chunks, 'chunk')} that the files are cut into. Whoever has the id can check "
            "every byte, whoever sends it."
        )
        self._text(
            "Peer 1 signed it with a publisher's key, and announced in the overlay (a Kademlia table that all peers "
            "hold together) that it has this id and these chunks. The files stayed where they are. It took "
            f"{format_duration(report.seconds)} ({format_rate(report.bytes_total / max(report.seconds, 1e-6))})."
        )

    def fetching(self, peers: Sequence[DemoPeer], *, first: bool) -> None:
        several = len(peers) > 1
        self._head(f"{_names(peers).capitalize()} {'fetch it at the same time' if several else 'fetches it'}")
        if first:
            self._text(
                "It knows nothing but the id. The overlay says who has it: peer 1. What peer 2 has checked it "
                "announces in turn, and serves to whoever asks, from the first chunk on."
            )
        else:
            self._text(
                "Now the overlay names more than one peer for the id, and chunks are asked of all of them at once"
                f"{', also of each other' if several else ''}. A peer that is slow, gone or lying would cost a retry "
                "elsewhere, not the download."
            )

    def fetched(self, fetches: Sequence[tuple[DemoPeer, FetchReport]], number_of: Callable[[str], int]) -> None:
        rows = []
        for peer, report in fetches:
            sources = sorted((number_of(source.peer_id), source.bytes) for source in report.peers if source.bytes)
            rate = format_rate(report.bytes_fetched / max(report.seconds, 1e-6))
            whole = f"{format_size(report.bytes_fetched)} in {format_duration(report.seconds)}, {rate}"
            rows.append((f"peer {peer.number}", whole))
            rows.append(("", listed([f"{format_size(size)} from peer {number}" for number, size in sources])))
        self._table(rows)

    def summary(
        self,
        peers: Sequence[DemoPeer],
        fetches: Sequence[tuple[DemoPeer, FetchReport]],
        number_of: Callable[[str], int],
        chunks: int,
    ) -> None:
        self._head("Who served what")
        sent = dict.fromkeys((peer.number for peer in peers), 0)
        for _, report in fetches:
            for source in report.peers:
                sent[number_of(source.peer_id)] += source.bytes
        received = {peer.number: report.bytes_fetched for peer, report in fetches}
        whole = max(1, sum(sent.values()))
        rows = [("", "FETCHED", "SERVED", "SHARE")]
        rows += [
            (f"peer {n}", format_size(received.get(n, 0)), format_size(size), f"{size * 100 / whole:.0f} %")
            for n, size in sent.items()
        ]
        self._table(rows, right=(1, 2, 3))
        rejected = sum(report.chunks_rejected for _, report in fetches)
        self._text(
            f"Each of the {count(chunks * len(fetches), 'chunk')} that arrived was hashed and compared before it was "
            f"kept; {rejected} {'was' if rejected == 1 else 'were'} rejected."
        )

    def checked(self, files: int, copies: int, faults: Sequence[str]) -> None:
        self._head("The check that anyone can make by hand")
        if faults:
            for fault in faults:
                self._text(f"WRONG: {fault}")
        else:
            self._text(f"SHA-256 of {count(files, 'file')} on {count(copies, 'peer')}: all equal to the original.")

    def closing(self, kept: str, seconds: float) -> None:
        self._head("Where to go next", numbered=False)
        self._table(
            [
                ("p2pmodel daemon", "run a peer of your own"),
                ("p2pmodel publish DIR", "offer a model: prints its id"),
                ("p2pmodel fetch ID --bootstrap HOST:PORT", "get it elsewhere, through your peer"),
                ("p2pmodel --help", "everything else"),
            ]
        )
        end = f"Its files are kept in {kept}." if kept else "All peers are stopped and all files removed."
        self._say()
        self._say(f"Done in {format_duration(seconds)}. {end}")

    def _table(self, rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
        for line in columns(rows, right=right, indent="   "):
            self._say(line)


def _names(peers: Sequence[DemoPeer]) -> str:
    numbers = listed([str(peer.number) for peer in peers])
    return f"peer{'s' if len(peers) > 1 else ''} {numbers}"


def _no_color() -> bool:
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
