"""What a peer needs of its machine: a private data directory, private keys, descriptors, room, and the right time."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from p2pmodel.limits import CONNECTIONS_MAX, FREE_DISK_FLOOR_BYTES, OPEN_FILES_MAX
from p2pmodel.net.address import split_host_port
from p2pmodel.peer.config import PeerConfig
from p2pmodel.peer.reports import Finding
from p2pmodel.peer.runtime import TOKEN_NAME, read_runtime
from p2pmodel.peer.units import format_size

_DESCRIPTORS = CONNECTIONS_MAX + 2 * OPEN_FILES_MAX + 128
_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def error(about: str, what: str, cure: str) -> Finding:
    return Finding(about=about, severity="error", what=what, cure=cure)


def warning(about: str, what: str, cure: str) -> Finding:
    return Finding(about=about, severity="warning", what=what, cure=cure)


def note(about: str, what: str, cure: str) -> Finding:
    return Finding(about=about, severity="note", what=what, cure=cure)


def directory_findings(data_dir: Path) -> Iterator[Finding]:
    """The data directory and what is in it."""
    if not data_dir.exists():
        return
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        yield error("data-dir", f"{data_dir} cannot be written to by this user.", f"chown -R {os.getuid()} {data_dir}")
        return
    if (mode := _mode(data_dir)) & 0o077:
        what = f"Others can look into {data_dir} (mode {mode:04o})."
        yield warning("data-dir", what, f"chmod 700 {data_dir}")
    for path in (*sorted((data_dir / "keys").rglob("*.pem")), data_dir / TOKEN_NAME):
        if path.is_file() and (mode := _mode(path)) & 0o077:
            what = f"The secret {path} can be read by others (mode {mode:04o})."
            yield error("key-mode", what, f"chmod 600 {path}")
    free = shutil.disk_usage(data_dir).free
    if free < FREE_DISK_FLOOR_BYTES:
        yield error("space", f"Only {format_size(free)} are free on the disk of {data_dir}.", "p2pmodel gc")


async def stale_findings(data_dir: Path) -> list[Finding]:
    """What a daemon that died has left. To be asked before anybody else takes the data directory."""
    record = await read_runtime(data_dir)
    if record is None or record.command or _is_alive(record.pid):
        return []
    what = f"The daemon of {data_dir} (process {record.pid}) ended without cleaning up, and does not run."
    return [note("stale-daemon", what, f"p2pmodel daemon --data-dir {data_dir}")]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def machine_findings() -> Iterator[Finding]:
    """This process and its kernel."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _DESCRIPTORS:
        enough = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        what = f"This process may open {soft} files at once; a busy peer wants {_DESCRIPTORS}."
        yield warning("open-files", what, f"ulimit -n {enough}")
    try:
        control = _CONGESTION.read_text().strip()
    except OSError:
        return
    if control not in ("bbr", "cubic"):
        what = f"TCP's congestion control is {control!r}; on long paths that lose packets, bbr fetches faster."
        yield note("congestion", what, "sysctl -w net.ipv4.tcp_congestion_control=bbr")


def port_findings(config: PeerConfig) -> Iterator[Finding]:
    """Whether a daemon could have its port. Only where none runs."""
    host, port = split_host_port(config.listen)
    if not port or _is_free(host, port):
        return
    what = f"Port {port} is in use by another program"
    if config.listen_explicit:
        cure = f"ss -lunpt 'sport = :{port}'   # who has it; or p2pmodel daemon --listen {host}:0"
        yield error("port", f"{what}, and a daemon would not start.", cure)
    else:
        yield note("port", f"{what}; a daemon would take a free one.", "p2pmodel daemon --listen HOST:PORT")


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(family, kind) as sock:
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((host, port))
            except OSError:
                return False
    return True


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
