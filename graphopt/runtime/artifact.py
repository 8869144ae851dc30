"""The `.gopt` file: one stored zip that holds a compiled model.

Members are 64-byte aligned, so that a mapped file's weights are used in place. The archive comment
holds a hash of everything before it, so any altered bit is caught before anything is believed.
Writing and inspecting need numpy only; running needs the native module.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import secrets
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from graphopt.errors import ArtifactError
from graphopt.hashing import CHUNK, Buffer, ChunkedHash, chunked_xxh64

__all__ = ["FORMAT_VERSION", "Artifact"]

FORMAT_VERSION: Final = 1

_ALIGNMENT: Final = 64
_COMMENT_PREFIX: Final = b"graphopt-xxh64:"
_COMMENT_SIZE: Final = len(_COMMENT_PREFIX) + 16
_MANIFEST: Final = "manifest.json"
_CRC_OFFSET: Final = 14  # of the field in a member's local header
# Where a member stands in the file; objects/* come between weights and host.json.
_ORDER: Final = (_MANIFEST, "plan", "weights", "objects/", "host.json", "report.json", "graph.gir")
# 1980-01-01 00:00:00, the earliest a zip can say: artifacts do not depend on when they were made.
_DOS_TIME: Final = 0x0021_0000
_ZIP64_LIMIT: Final = 0xFFFF_FFFF


class Lazy(Protocol):
    """A piece that is made when it is read, and let go when it is written."""

    @property
    def nbytes(self) -> int: ...
    def read(self) -> npt.NDArray[Any]: ...


Piece = Buffer | npt.NDArray[Any] | Lazy
Pieces = Piece | list[Piece] | tuple[Piece, ...]


@dataclass(frozen=True)
class Artifact:
    """A compiled model: what it is (`manifest`) and its files (`members`, without the manifest).

    A member is a bytes-like object, array or lazy piece or, to spare a copy of large weights, a
    list of them that stands for their concatenation. `save` adds `format_version` and each
    member's size and hash to the manifest. Members read from a file are views of the mapped file.
    """

    manifest: Mapping[str, Any]
    members: Mapping[str, Pieces]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact, all or nothing: a reader never sees a part of it.

        Raises:
            ArtifactError: when the path cannot be written. Nothing is left behind.
        """
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        try:
            # A rename would put a file in the place of a device or pipe, /dev/null no less.
            if target.exists() and not (target.is_file() or target.is_dir()):
                raise ArtifactError(f"cannot write '{target}': it is not a regular file")
            with temporary.open("xb") as file:
                self._write(file)
            _append_hash(temporary)
            temporary.replace(target)
        except OSError as error:
            raise ArtifactError(f"cannot write '{target}': {error.strerror or error}") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Artifact:
        """Map an artifact and check its hash and structure.

        Raises:
            ArtifactError: when the file cannot be read, is no artifact, is truncated or altered,
                or has a format version that this graphopt does not know.
        """
        try:
            with Path(path).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size == 0:
                    raise ArtifactError(f"cannot read '{path}': the file is empty")
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                _check_hash(data, path)
                members = dict(_read_members(file, data))
        except OSError as error:
            raise ArtifactError(f"cannot read '{path}': {error.strerror or error}") from error
        except (zipfile.BadZipFile, ValueError, LookupError, RuntimeError, struct.error) as error:
            # RuntimeError: what zipfile says of archives of later versions and of encrypted ones.
            raise ArtifactError(
                f"cannot read '{path}': the artifact is damaged: {error}"
            ) from error
        if _MANIFEST not in members:
            raise ArtifactError(f"cannot read '{path}': member '{_MANIFEST}' is missing")
        manifest = _parse_manifest(members.pop(_MANIFEST), path)
        return cls(manifest, members)

    def read(self, member: str) -> bytes:
        """A member's bytes. Raises ArtifactError when there is no such member."""
        if member not in self.members:
            raise ArtifactError(f"the artifact has no member '{member}'")
        return b"".join(bytes(piece) for piece in _pieces(self.members[member]))

    def json(self, member: str) -> Any:
        """A JSON member's value."""
        return json.loads(self.read(member))

    def _write(self, file: IO[bytes]) -> None:
        """Write all but the hash at the end. Every piece is looked at once; the manifest, whose
        hashes of the other members are known last and have a fixed width, is written over."""
        names = sorted(self.members, key=_position)
        described = {name: {"size": _size(self.members[name]), "xxh64": "0" * 16} for name in names}
        manifest = {**self.manifest, "format_version": FORMAT_VERSION, "members": described}
        _write_member(file, _MANIFEST, _canonical(manifest))
        entries = []
        for name in names:
            entry, digest = _write_member(file, name, self.members[name])
            described[name]["xxh64"] = f"{digest:016x}"
            entries.append(entry)
        end = file.tell()
        file.seek(0)
        first, _ = _write_member(file, _MANIFEST, _canonical(manifest))
        file.seek(end)
        _write_directory(file, [first, *entries])


@dataclass(frozen=True)
class _Entry:
    name: bytes
    crc: int
    size: int
    offset: int


def _position(name: str) -> tuple[int, str]:
    for i, prefix in enumerate(_ORDER):
        if name == prefix or (prefix.endswith("/") and name.startswith(prefix)):
            return i, name
    return len(_ORDER), name


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    text = json.dumps(manifest, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1)
    return text.encode()


def _size(member: Pieces) -> int:
    parts = member if isinstance(member, (list, tuple)) else (member,)
    return sum(memoryview(x).nbytes if isinstance(x, Buffer) else x.nbytes for x in parts)


def _pieces(member: Pieces) -> Iterator[memoryview]:
    for piece in member if isinstance(member, (list, tuple)) else (member,):
        if isinstance(piece, Buffer):
            view = memoryview(piece)
        else:
            array = piece if isinstance(piece, np.ndarray) else np.ascontiguousarray(piece.read())
            # Arrays of ml_dtypes have no buffer but as bytes.
            view = array.reshape(-1).view(np.uint8).data
        if view.nbytes:  # an empty view of several dimensions cannot be cast
            yield view.cast("B")


def _write_member(file: IO[bytes], name: str, member: Pieces) -> tuple[_Entry, int]:
    """Write one member where the file stands. Returns its entry in the directory and its hash."""
    size = _size(member)
    offset = file.tell()
    encoded = name.encode()
    extra = b""
    if size >= _ZIP64_LIMIT:
        extra = struct.pack("<HHQQ", 0x0001, 16, size, size)
    small = min(size, _ZIP64_LIMIT)
    # The data's alignment comes from a padding field of a private type in the header.
    padding = -(offset + 30 + len(encoded) + len(extra) + 4) % _ALIGNMENT
    extra += struct.pack("<HH", 0xD935, padding) + bytes(padding)
    header = (0x04034B50, 45, 0x0800, 0, _DOS_TIME, 0, small, small, len(encoded), len(extra))
    file.write(struct.pack("<IHHHIIIIHH", *header) + encoded + extra)
    crc = 0
    hasher = ChunkedHash()
    for piece in _pieces(member):
        # In steps that stay in the cache while they are summed, hashed and written.
        for at in range(0, len(piece), CHUNK):
            step = piece[at : at + CHUNK]
            crc = zlib.crc32(step, crc)
            hasher.update(step)
            file.write(step)
    end = file.tell()
    file.seek(offset + _CRC_OFFSET)
    file.write(struct.pack("<I", crc))
    file.seek(end)
    return _Entry(encoded, crc, size, offset), hasher.digest()


def _write_directory(file: IO[bytes], entries: Iterable[_Entry]) -> None:
    start = file.tell()
    count = 0
    for entry in entries:
        large = [v for v in (entry.size, entry.size, entry.offset) if v >= _ZIP64_LIMIT]
        extra = struct.pack(f"<HH{len(large)}Q", 0x0001, 8 * len(large), *large) if large else b""
        size = min(entry.size, _ZIP64_LIMIT)
        header = (0x02014B50, 45, 45, 0x0800, 0, _DOS_TIME, entry.crc, size, size)
        sizes = (len(entry.name), len(extra), 0, 0, 0, 0, min(entry.offset, _ZIP64_LIMIT))
        file.write(struct.pack("<IHHHHIIIIHHHHHII", *header, *sizes) + entry.name + extra)
        count += 1
    end = file.tell()
    size = end - start
    if end >= _ZIP64_LIMIT:
        file.write(
            struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, size, start)
        )
        file.write(struct.pack("<IIQI", 0x07064B50, 0, end, 1))
        start = _ZIP64_LIMIT
    file.write(struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, size, start, _COMMENT_SIZE))


def _append_hash(path: Path) -> None:
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            digest = chunked_xxh64(data)
        file.seek(0, os.SEEK_END)
        file.write(_COMMENT_PREFIX + f"{digest:016x}".encode())


def _check_hash(data: memoryview, path: str | os.PathLike[str]) -> None:
    if bytes(data[:4]) != b"PK\x03\x04":
        raise ArtifactError(f"cannot read '{path}': not a graphopt artifact")
    comment = bytes(data[-_COMMENT_SIZE:])
    if not comment.startswith(_COMMENT_PREFIX):
        raise ArtifactError(
            f"cannot read '{path}': the artifact is truncated or is not a graphopt artifact"
        )
    digest = f"{chunked_xxh64(data[:-_COMMENT_SIZE]):016x}"
    if comment[len(_COMMENT_PREFIX) :] != digest.encode():
        raise ArtifactError(
            f"cannot read '{path}': the artifact is damaged: its contents do not match its hash "
            "(the file was altered or copied badly)"
        )


def _read_members(file: IO[bytes], data: memoryview) -> Iterator[tuple[str, memoryview]]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                raise ValueError(f"member '{info.filename}' is compressed")
            lengths = struct.unpack_from("<HH", data, info.header_offset + 26)
            start = info.header_offset + 30 + sum(lengths)
            if start % _ALIGNMENT or start + info.file_size > len(data):
                raise ValueError(f"member '{info.filename}' is not where it should be")
            yield info.filename, data[start : start + info.file_size]


def _parse_manifest(text: Buffer, path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        manifest = json.loads(bytes(text))
    except ValueError as error:
        raise ArtifactError(f"cannot read '{path}': malformed manifest: {error}") from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"cannot read '{path}': its format version is {version}, this graphopt reads "
            f"{FORMAT_VERSION}; recompile the model or update graphopt"
        )
    assert isinstance(manifest, dict)
    return manifest
