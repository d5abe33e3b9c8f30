"""Encodes and decodes stored values: JSON for values, raw floats for vectors. `parts` does so for what is learned.

Stored bytes are not trusted: for every defect, the ``decode_*`` functions raise `Unreadable` and nothing else. They
check shapes and types, not plausibility. Ids and keys must be those under which a value was stored; any other missing
field gets its default (`fields`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray

from shared_core.records import (
    PLACES,
    DecisionRecord,
    Entry,
    ExactAnswer,
    Example,
    Feedback,
    Statistics,
    Texts,
    WaitingAnswer,
)
from shared_core.store.fields import MAX_VALUE_BYTES, Format, Unreadable, check_size, raw_bytes
from shared_core.store.protocol import Change, ChangeKind, Row

F = TypeVar("F", bound=np.floating)

MAX_DIMENSION: Final = 65_536
_KINDS: Final = frozenset(get_args(ChangeKind))


@dataclass(frozen=True, slots=True)
class _OwnedTexts:
    """The texts of an example, and whose they are; empty if an earlier release wrote them."""

    query: str
    answer: str
    scope: str = ""
    id: str = ""


_ENTRIES: Final = Format(Entry, "statistics")
_STATISTICS: Final = Format(Statistics)
_TEXTS: Final = Format(_OwnedTexts)
_EXACT: Final = Format(ExactAnswer, "payload")
_DECISIONS: Final = Format(DecisionRecord, "vector")
_FEEDBACK: Final = Format(Feedback)
_WAITING: Final = Format(WaitingAnswer, "vector")


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An encoded example. Each part is read and rewritten separately."""

    entry: bytes
    statistics: bytes
    vector: bytes
    texts: bytes


def _complete(value: object, name: str, part: object) -> None:
    """Set a field that is stored elsewhere. `value` is frozen, but new: `replace` takes as long as decoding it."""
    object.__setattr__(value, name, part)


# examples -----------------------------------------------------------------------------------------------------------


def encode_example(example: Example) -> EncodedExample:
    """The four parts of an example.

    Raises:
        ValueError: A part is too large to be decoded, or holds a number that is not finite.
    """
    entry = example.entry
    vector = _checked(example.vector, "<f4", f"example {entry.id}")
    return EncodedExample(
        _ENTRIES.dump(entry, vector.size),
        encode_statistics(entry.statistics),
        vector.tobytes(),
        _encode_texts(entry, example.texts),
    )


def encode_statistics(statistics: Statistics) -> bytes:
    """The statistics of an example, which the learner updates."""
    return _STATISTICS.dump(statistics)


def decode_row(scope: str, example_id: str, entry: object, statistics: object, vector: object) -> Row:
    """The row of the example stored as `example_id` in `scope`; the bytes must name the same id and scope.

    Raises:
        Unreadable: See the module.
    """
    decoded, header = _ENTRIES.load(entry)
    if decoded.id != example_id or decoded.scope != scope:
        raise Unreadable("the id or the scope differs from the one in the key")
    _complete(decoded, "statistics", decode_statistics(statistics))
    return Row(decoded, _vector(vector, header.dimension, np.float32))


def _encode_texts(entry: Entry, texts: Texts) -> bytes:
    if not _is_text(texts):
        raise ValueError(f"a text of example {entry.id} holds half a character (a lone surrogate)")
    return _TEXTS.dump(_OwnedTexts(texts.query, texts.answer, entry.scope, entry.id))


def decode_texts(scope: str, example_id: str, data: object) -> Texts:
    """The texts of the example stored as `example_id` in `scope`; the bytes must name the same id and scope, or none.

    Raises:
        Unreadable: See the module.
    """
    owned = _TEXTS.load(data)[0]
    if (owned.scope or owned.id) and (owned.scope, owned.id) != (scope, example_id):
        raise Unreadable("the texts belong to another example")
    texts = Texts(owned.query, owned.answer)
    if not _is_text(texts):
        raise Unreadable("half a character in a text")
    return texts


def _is_text(texts: Texts) -> bool:
    """False if a text holds a lone surrogate, which is half a character."""
    try:
        return texts.size >= 0
    except UnicodeEncodeError:
        return False


def decode_statistics(data: object) -> Statistics:
    """The statistics of an example.

    Raises:
        Unreadable: See the module.
    """
    return _STATISTICS.load(data)[0]


def _checked(vector: NDArray[F], dtype: str, owner: str) -> NDArray[F]:
    """A vector as it is stored.

    Raises:
        ValueError: It is not one row of finite numbers.
    """
    stored = np.ascontiguousarray(vector, dtype=dtype)
    if stored.ndim != 1 or not 0 < stored.size <= MAX_DIMENSION or not np.isfinite(stored).all():
        raise ValueError(f"the vector of {owner} must be one row of 1 to {MAX_DIMENSION} finite numbers")
    return stored


def _vector(data: object, dimension: int, kind: type[F]) -> NDArray[F]:
    """The vector of raw bytes; a `dimension` of 0 is unknown."""
    dtype = np.dtype(kind).newbyteorder("<")
    raw = raw_bytes(data, dtype.itemsize * MAX_DIMENSION)
    wanted = dimension or len(raw) // dtype.itemsize
    if wanted < 1 or len(raw) != dtype.itemsize * wanted:
        raise Unreadable(f"the vector has {len(raw)} bytes; expected {dtype.itemsize * wanted}")
    vector: NDArray[F] = np.frombuffer(raw, dtype=dtype)
    if not np.isfinite(vector).all():
        raise Unreadable("the vector holds numbers that are not finite")
    return vector


def decode_change(seq: int, kind: object, scope: object, example_id: object) -> Change:
    """One entry of the change feed, from the bytes of its three texts.

    Raises:
        Unreadable: See the module.
    """
    named, scope, example_id = (_utf8(part) for part in (kind, scope, example_id))
    if named not in _KINDS:
        raise Unreadable(f"unknown kind of change {named!r}")
    return Change(seq, cast("ChangeKind", named), scope, example_id)


def _utf8(data: object) -> str:
    try:
        return raw_bytes(data, MAX_VALUE_BYTES).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise Unreadable(f"text: {error}") from error


# exact answers, decisions, feedback ---------------------------------------------------------------------------------


def encode_exact(answer: ExactAnswer) -> bytes:
    """One line of JSON, then the raw payload (base64 would add a third).

    Raises:
        ValueError: The answer is too large to be decoded.
    """
    return check_size(_EXACT.dump(answer) + b"\n" + answer.payload)


def decode_exact(key: str, data: object) -> ExactAnswer:
    """The answer stored under `key`.

    Raises:
        Unreadable: See the module.
    """
    head, newline, payload = raw_bytes(data, MAX_VALUE_BYTES).partition(b"\n")
    if not newline:
        raise Unreadable("the exact answer has no payload")
    answer = _EXACT.load(head)[0]
    if answer.key != key:
        raise Unreadable("the key differs from the one under which it is stored")
    _complete(answer, "payload", payload)
    return answer


def encode_decision(decision: DecisionRecord) -> bytes:
    """One line of JSON, then the raw vector if there is one.

    Raises:
        ValueError: It is too large to be decoded, or a number is not finite.
    """
    if decision.vector is None:
        return _DECISIONS.dump(decision)
    vector = _checked(decision.vector, "<f2", f"decision {decision.id}")
    return check_size(_DECISIONS.dump(decision, vector.size) + b"\n" + vector.tobytes())


def decode_decision(decision_id: str, data: object) -> DecisionRecord:
    """The record stored as `decision_id`.

    Raises:
        Unreadable: See the module.
    """
    head, _, raw = raw_bytes(data, MAX_VALUE_BYTES).partition(b"\n")
    decision, header = _DECISIONS.load(head)
    if decision.id != decision_id:
        raise Unreadable("the id differs from the one in the key")
    vector = _vector(raw, header.dimension, np.float16) if raw or header.dimension else None
    _complete(decision, "vector", vector)
    return decision


# An example that is admitted later is named in the encoded record, because decoding and encoding all of it takes longer,
# and Redis's JSON library would round its numbers. Only that field can be this text, since quotes in a string are escaped.
UNLINKED: Final = b'"admitted_id":""'


def admitted(example_id: str) -> bytes:
    """What stands for `UNLINKED` in the record of a decision whose answer became this example."""
    return b'"admitted_id":' + json.dumps(example_id, ensure_ascii=False).encode("utf-8", "surrogatepass")


def encode_feedback(feedback: Feedback) -> bytes:
    """One entry of the feedback log.

    Raises:
        ValueError: It is too large to be decoded, or the score is not finite.
    """
    return _FEEDBACK.dump(feedback)


def decode_feedback(data: object) -> Feedback:
    """One entry of the feedback log.

    Raises:
        Unreadable: See the module.
    """
    return _FEEDBACK.load(data)[0]


def encode_waiting(answer: WaitingAnswer) -> bytes:
    """One line of JSON, then the raw vector.

    Raises:
        ValueError: It is too large to be decoded, or a number is not finite.
    """
    if not _is_text(answer.texts):
        raise ValueError(f"the answer to decision {answer.decision_id} holds half a character (a lone surrogate)")
    vector = _checked(answer.vector, "<f4", f"the answer to decision {answer.decision_id}")
    return check_size(_WAITING.dump(answer, vector.size) + b"\n" + vector.tobytes())


def decode_waiting(decision_id: str, scope: object, data: object) -> WaitingAnswer:
    """The answer stored for `decision_id` in `scope` (in UTF-8); the bytes must name the same id and scope.

    Raises:
        Unreadable: See the module.
    """
    head, _, raw = raw_bytes(data, MAX_VALUE_BYTES).partition(b"\n")
    answer, header = _WAITING.load(head)
    if answer.decision_id != decision_id or answer.entry.scope.encode("utf-8", "surrogatepass") != scope:
        raise Unreadable("the decision or the scope differs from the one under which it is stored")
    if not _is_text(answer.texts):
        raise Unreadable("half a character in a text")
    _complete(answer, "vector", _vector(raw, header.dimension, np.float32))
    return answer


def decode_place(value: object) -> int:
    """A version, an offset or a token as stored beside a value; 0 if it cannot be one.

    Args:
        value: What SQLite or Redis returned for it.
    """
    if isinstance(value, bytes):
        value = int(value) if value.isdigit() and len(value) <= len(str(PLACES)) else None
    return value if isinstance(value, int) and 0 <= value < PLACES else 0
