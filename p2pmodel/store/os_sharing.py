"""Bytes shared by files of this machine: reflinks, copies inside the kernel, hard links, and where a file really lies.

`FICLONERANGE` lets two files have the same blocks until one of them is written to (Btrfs, XFS, bcachefs, overlays of
these); it needs offsets that are the same within a block. `copy_file_range` copies without a detour through our memory,
and on network file systems on the server. Where neither can, bytes are read and written.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Literal

from p2pmodel.limits import HASH_BUFFER_BYTES
from p2pmodel.store.files import Directory, OpenFile, Sharing, os_fault
from p2pmodel.store.values import Extent

_FICLONERANGE = 0x4020940D
_CLONE_RANGE = struct.Struct("=qQQQ")
_FIEMAP = 0xC020660B
_FIEMAP_HEAD = struct.Struct("=QQIIII")
_FIEMAP_EXTENT = struct.Struct("=QQQQQIIII")
_EXTENTS_AT_ONCE = 256
_EXTENTS_MAX = 1 << 16
_LAST, _UNKNOWN, _DELALLOC, _INLINE, _SHARED = 0x1, 0x2, 0x4, 0x200, 0x2000
_CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EPERM, errno.ETXTBSY)
"""Answers that mean: not here, or not these two files, or not at these offsets."""


def _fd(opened: OpenFile | Directory) -> int:
    fd: int | None = opened.fileno()  # type: ignore[union-attr]  # those of `os_files` have one each
    assert fd is not None
    return fd


def _copy_range(source: int, target: int, length: int, source_offset: int, offset: int) -> int:
    if not hasattr(os, "copy_file_range"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return os.copy_file_range(source, target, length, source_offset, offset)


class OsSharing(Sharing):
    """The real one."""

    def copy(
        self, source: OpenFile, source_offset: int, target: OpenFile, offset: int, length: int
    ) -> Literal["reflinked", "copied"]:
        start, end = self._cloneable(source, source_offset, target, offset, length)
        if start < end and self._clone(source, source_offset + start, target, offset + start, end - start):
            self._copy(source, source_offset, target, offset, start)
            self._copy(source, source_offset + end, target, offset + end, length - end)
            return "reflinked"
        self._copy(source, source_offset, target, offset, length)
        return "copied"

    def _cloneable(
        self, source: OpenFile, source_offset: int, target: OpenFile, offset: int, length: int
    ) -> tuple[int, int]:
        """The whole blocks of the range, relative to its start; none where the two lie differently within theirs."""
        block = os.fstatvfs(_fd(target)).f_bsize
        if os.fstat(_fd(source)).st_dev != os.fstat(_fd(target)).st_dev or (source_offset - offset) % block:
            return 0, 0
        return -offset % block, length - (offset + length) % block

    def _clone(self, source: OpenFile, source_offset: int, target: OpenFile, offset: int, length: int) -> bool:
        try:
            fcntl.ioctl(_fd(target), _FICLONERANGE, _CLONE_RANGE.pack(_fd(source), source_offset, length, offset))
        except OSError as error:
            if error.errno in _CANNOT:
                return False
            raise os_fault(error, target.path, "share blocks with") from error
        return True

    def _copy(self, source: OpenFile, source_offset: int, target: OpenFile, offset: int, length: int) -> None:
        done = 0
        try:
            while done < length:
                count = _copy_range(_fd(source), _fd(target), length - done, source_offset + done, offset + done)
                if not count:
                    return  # the source has become shorter; what was copied does not verify
                done += count
        except OSError as error:
            if error.errno not in _CANNOT:
                raise os_fault(error, target.path, "copy to") from error
            self._read_and_write(source, source_offset + done, target, offset + done, length - done)

    def _read_and_write(self, source: OpenFile, source_offset: int, target: OpenFile, offset: int, length: int) -> None:
        buffer = memoryview(bytearray(min(length, HASH_BUFFER_BYTES)))
        for start in range(0, length, len(buffer) or 1):
            piece = buffer[: min(len(buffer), length - start)]
            count = source.read_into(piece, source_offset + start)
            target.write(piece[:count], offset + start)

    def link(self, source: OpenFile, directory: Directory, name: str) -> bool:
        try:
            os.link(f"/proc/self/fd/{_fd(source)}", name, dst_dir_fd=_fd(directory), follow_symlinks=True)
        except OSError as error:
            if error.errno in (*_CANNOT, errno.EMLINK, errno.EEXIST, errno.ENOENT, errno.EACCES):
                return False
            raise os_fault(error, directory.path / name, "link") from error
        return True

    def extents(self, file: OpenFile) -> list[Extent] | None:
        found: list[Extent] = []
        at = 0
        while len(found) < _EXTENTS_MAX:
            room = bytearray(_FIEMAP_HEAD.size + _EXTENTS_AT_ONCE * _FIEMAP_EXTENT.size)
            _FIEMAP_HEAD.pack_into(room, 0, at, (1 << 64) - 1 - at, 0, 0, _EXTENTS_AT_ONCE, 0)
            try:
                fcntl.ioctl(_fd(file), _FIEMAP, room)
            except OSError:
                return None
            count = _FIEMAP_HEAD.unpack_from(room)[3]
            for number in range(count):
                entry = _FIEMAP_EXTENT.unpack_from(room, _FIEMAP_HEAD.size + number * _FIEMAP_EXTENT.size)
                logical, physical, length, flags = entry[0], entry[1], entry[2], entry[5]
                if flags & (_UNKNOWN | _DELALLOC | _INLINE):
                    return None
                found.append(Extent(physical, length, bool(flags & _SHARED)))
                at = logical + length
                if flags & _LAST:
                    return found
            if not count:
                return found
        return None
