"""How a part of the learner is stored: a head, and its contents in chunks.

The contents are one line of JSON (metadata; name, type and shape of each array), then the arrays as raw bytes. They are
cut into chunks, so that no call writes or reads more than `CHUNK_BYTES` of a large part. The chunks have a random key.
The head names that key, so replacing the head replaces the contents. It also holds their checksum.
"""

from __future__ import annotations

import json
import math
import secrets
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared_core.records import PLACES, Checkpoint, LearnRound, Place
from shared_core.store.fields import MAX_VALUE_BYTES, SCHEMA, Format, Unreadable, dump, parse, raw_bytes
from shared_core.store.protocol import PartProgress

CHUNK_BYTES: Final = 64 * 2**10  # Redis and SQLite write it in a few milliseconds, with its fsync
PAUSE: Final = 0.002  # seconds after each chunk, which the disk needs to keep up: faster, other clients wait for it
MAX_PART_BYTES: Final = 2**30
ALIGNMENT: Final = 64  # of the first array, as NumPy and torch allocate
TYPES: Final = frozenset({"<f2", "<f4", "<f8", "<i2", "<i4", "<i8", "|i1", "|u1", "|b1"})  # no objects, no pickle


@dataclass(frozen=True, slots=True)
class PartHead:
    """The head of a stored part.

    Attributes:
        version: Number of the publication that wrote it.
        offset: The part has learned the feedback log up to here.
        key: Under which the chunks are stored.
        chunks: Number of chunks, at least 1.
        size: Bytes of all chunks.
        checksum: CRC-32 of version, offset and all chunks.
    """

    version: Place
    offset: Place
    key: str
    chunks: Place
    size: Place
    checksum: Place


_HEAD: Final = Format(PartHead)
_ROUND: Final = Format(LearnRound)


@dataclass(frozen=True, slots=True)
class Staged:
    """A part of which all chunks but the last are written: head and last chunk belong into the publication."""

    head: bytes
    key: str
    number: int
    last: bytes


def stage(checkpoint: Checkpoint, version: int, write: Callable[[str, int, bytes], None]) -> Staged:
    """Write all chunks of a part but the last one, each by a call of `write` with key, number and bytes.

    Raises:
        ValueError: See `layout`.
        TypeError: See `layout`.
    """
    key, last, number, size = secrets.token_hex(8), b"", -1, 0
    checksum = _first_checksum(version, checkpoint.offset)
    for number, data in enumerate(_chunks(layout(checkpoint))):
        if number:
            write(key, number - 1, last)
            time.sleep(PAUSE)
        last, size, checksum = data, size + len(data), zlib.crc32(data, checksum)
    return Staged(_HEAD.dump(PartHead(version, checkpoint.offset, key, number + 1, size, checksum)), key, number, last)


def _first_checksum(version: int, offset: int) -> int:
    return zlib.crc32(f"{version} {offset}".encode())


def layout(checkpoint: Checkpoint) -> list[memoryview]:
    """The contents in pieces: the JSON, and each array, without a copy of it.

    Raises:
        ValueError: They are too large, or the metadata hold a number that is not finite.
        TypeError: The metadata are not JSON, or an array has another type than those of `TYPES`.
    """
    arrays = {name: _plain(name, array) for name, array in checkpoint.arrays.items()}
    ordered = sorted(arrays.items(), key=lambda item: -item[1].itemsize)  # then each array is aligned to its items
    described = [[name, array.dtype.str, list(array.shape)] for name, array in ordered]
    head = dump({"meta": dict(checkpoint.meta), "arrays": described})
    head += b" " * (-(len(head) + 1) % ALIGNMENT) + b"\n"
    pieces = [memoryview(head), *(array.reshape(-1).view(np.uint8).data for _, array in ordered)]
    if (size := sum(map(len, pieces))) > MAX_PART_BYTES:
        raise ValueError(f"a part of {size} bytes cannot be stored; the limit is {MAX_PART_BYTES}")
    return pieces


def _plain(name: str, array: NDArray[Any]) -> NDArray[Any]:
    plain = np.asarray(array, order="C")
    plain = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
    if plain.dtype.str not in TYPES:
        raise TypeError(f"the array {name!r} holds {plain.dtype}; convert it to one of {sorted(TYPES)}")
    return plain


def _chunks(pieces: list[memoryview]) -> Iterator[bytes]:
    held = bytearray()
    for piece in pieces:
        for start in range(0, len(piece), CHUNK_BYTES):
            held += piece[start : start + CHUNK_BYTES]
            if len(held) >= CHUNK_BYTES:
                yield bytes(held[:CHUNK_BYTES])
                del held[:CHUNK_BYTES]
    if held:
        yield bytes(held)


def newest(read_head: Callable[[], object], read_chunk: Callable[[str, int], object]) -> Checkpoint | None:
    """What is stored of a part; None if nothing is. A part that is replaced meanwhile is read again.

    Args:
        read_head: Returns the stored head, None if there is none.
        read_chunk: Returns the chunk of this key and number, None if there is none.

    Raises:
        Unreadable: The head, a chunk or the contents cannot be read.
    """
    data = read_head()
    while data is not None:
        head = _HEAD.load(data)[0]
        try:
            return _decode(head, _contents(head, partial(read_chunk, head.key)))
        except Unreadable:
            before, data = data, read_head()
            if data == before:
                raise
    return None


def progress_of(head: object) -> PartProgress:
    """What a stored head says."""
    try:
        found = _HEAD.load(head)[0]
    except Unreadable:
        fields = _fields(head)
        version = fields.get("v")
        return PartProgress(is_newer=isinstance(version, int) and version > SCHEMA)
    return PartProgress(found.version, found.offset)


def key_of(head: object) -> str:
    """The key of the chunks, also if a newer release wrote the head; empty if it cannot be read."""
    key = _fields(head).get("key")
    return key if isinstance(key, str) else ""


def _fields(head: object) -> dict[str, object]:
    try:
        fields = json.loads(raw_bytes(head, MAX_VALUE_BYTES))
    except (Unreadable, ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _contents(head: PartHead, read: Callable[[int], object]) -> bytearray:
    if not head.size <= MAX_PART_BYTES:
        raise Unreadable(f"{head.size} bytes; the limit is {MAX_PART_BYTES}")
    contents, end, checksum = bytearray(head.size), 0, _first_checksum(head.version, head.offset)
    for number in range(head.chunks):
        chunk = raw_bytes(read(number), MAX_VALUE_BYTES)
        checksum = zlib.crc32(chunk, checksum)
        if end + len(chunk) > head.size:
            raise Unreadable("the chunks are larger than the head says")
        contents[end : end + len(chunk)] = chunk
        end += len(chunk)
    if (end, checksum) != (head.size, head.checksum):
        raise Unreadable("the contents, the version or the offset differ from those that were written")
    return contents


def _decode(head: PartHead, contents: bytearray) -> Checkpoint:
    """The checkpoint of these contents, whose arrays are views of them."""
    start = contents.find(b"\n") + 1
    fields = parse(bytes(contents[:start]))
    meta, described = fields.get("meta", {}), fields.get("arrays", [])
    if not isinstance(meta, dict) or not isinstance(described, list):
        raise Unreadable("expected metadata and a list of arrays")
    arrays: dict[str, NDArray[Any]] = {}
    for each in described:
        name, kind, shape = _described(each)
        count = math.prod(shape)
        end = start + count * np.dtype(kind).itemsize
        if end > len(contents):
            raise Unreadable(f"the array {name!r} is cut off")
        try:
            arrays[name] = np.frombuffer(contents, kind, count, start).reshape(shape)
        except (ValueError, OverflowError) as error:
            raise Unreadable(f"the array {name!r}: {error}") from error
        start = end
    return Checkpoint(head.version, head.offset, arrays, meta)


def _described(each: object) -> tuple[str, str, list[int]]:
    match each:
        case [str(name), str(kind), list(shape)] if kind in TYPES:
            if all(type(length) is int and 0 <= length < PLACES for length in shape):
                return name, kind, shape
    raise Unreadable("expected name, type and shape of an array")


def encode_round(report: LearnRound) -> bytes:
    """The report of a round.

    Raises:
        ValueError: A number is not finite.
    """
    return _ROUND.dump(report)


def decode_round(data: object) -> LearnRound:
    """The report of a round.

    Raises:
        Unreadable: The bytes are no such report.
    """
    return _ROUND.load(data)[0]
