"""Encodes and decodes stored values: JSON for values, raw float32 for vectors, safetensors for weights.

Every JSON object has the schema version ``v``. Stored bytes are not trusted: for every defect, the ``decode_*``
functions raise `Unreadable` and nothing else. They check shapes and types, not plausibility.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from shared_core.records import (
    Checkpoint,
    DecisionRecord,
    Entry,
    ExactAnswer,
    Example,
    Feedback,
    Source,
    Statistics,
    Texts,
    Vector,
)
from shared_core.store.fields import MAX_VALUE_BYTES, Fields, Unreadable, check_size, dump, raw_bytes
from shared_core.store.protocol import Change, ChangeKind, Row

MAX_ARRAYS_BYTES: Final = 256 * 2**20  # weights of one checkpoint; half the size limit of a Redis value
MAX_DIMENSION: Final = 65_536

_SOURCES: Final = frozenset(get_args(Source))
_KINDS: Final = frozenset(get_args(ChangeKind))


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An encoded example. Each part is read and rewritten separately."""

    entry: bytes
    statistics: bytes
    vector: bytes
    texts: bytes


@dataclass(frozen=True, slots=True)
class EncodedCheckpoint:
    """An encoded checkpoint: `head` is JSON, `arrays` is safetensors."""

    head: bytes
    arrays: bytes


# examples -----------------------------------------------------------------------------------------------------------


def encode_example(example: Example) -> EncodedExample:
    """The four parts of an example.

    Raises:
        ValueError: A part is too large to be decoded, or holds a number that is not finite.
    """
    entry = example.entry
    vector = np.ascontiguousarray(example.vector, dtype="<f4")
    if vector.ndim != 1 or not 0 < vector.size <= MAX_DIMENSION or not np.isfinite(vector).all():
        raise ValueError(f"the vector of example {entry.id} must be one row of 1 to {MAX_DIMENSION} finite numbers")
    head = {
        "id": entry.id,
        "scope": entry.scope,
        "task": entry.task,
        "source": entry.source,
        "writer": entry.writer,
        "created_at": entry.created_at,
        "size": entry.size,
        "exact_key": entry.exact_key,
        "dimension": vector.size,
    }
    texts = {"query": example.texts.query, "answer": example.texts.answer}
    return EncodedExample(dump(head), encode_statistics(entry.statistics), vector.tobytes(), dump(texts))


def encode_statistics(statistics: Statistics) -> bytes:
    """The statistics of an example, which the learner updates."""
    return dump(
        {
            "quality": [statistics.quality.value, statistics.quality.count],
            "helpfulness": [statistics.helpfulness.value, statistics.helpfulness.count],
            "offload_value": statistics.offload_value,
            "offload_at": statistics.offload_at,
            "replay_gain": statistics.replay_gain,
            "replay_count": statistics.replay_count,
        }
    )


def decode_row(scope: str, example_id: str, entry: object, statistics: object, vector: object) -> Row:
    """The row of the example stored as `example_id` in `scope`; the bytes must name the same id and scope.

    Raises:
        Unreadable: See the module.
    """
    fields = Fields(entry)
    fields.expect("id", example_id)
    fields.expect("scope", scope)
    source = fields.text("source")
    if source not in _SOURCES:
        raise Unreadable(f"unknown source {source!r}")
    decoded = Entry(
        id=example_id,
        scope=scope,
        task=fields.text("task"),
        source=cast("Source", source),
        writer=fields.text("writer"),
        created_at=fields.number("created_at"),
        size=fields.integer("size"),
        exact_key=fields.text("exact_key"),
        statistics=decode_statistics(statistics),
    )
    return Row(decoded, _vector(vector, fields.integer("dimension")))


def decode_texts(data: object) -> Texts:
    """The texts of an example.

    Raises:
        Unreadable: See the module.
    """
    fields = Fields(data)
    return Texts(fields.text("query"), fields.text("answer"))


def decode_statistics(data: object) -> Statistics:
    """The statistics of an example.

    Raises:
        Unreadable: See the module.
    """
    fields = Fields(data)
    return Statistics(
        quality=fields.average("quality"),
        helpfulness=fields.average("helpfulness"),
        offload_value=fields.number("offload_value"),
        offload_at=fields.number("offload_at"),
        replay_gain=fields.number("replay_gain"),
        replay_count=fields.integer("replay_count"),
    )


def _vector(data: object, dimension: int) -> Vector:
    raw = raw_bytes(data, 4 * MAX_DIMENSION)
    if dimension < 1 or len(raw) != 4 * dimension:
        raise Unreadable(f"the vector has {len(raw)} bytes; expected {4 * dimension}")
    vector = np.frombuffer(raw, dtype="<f4")
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
    head = dump(
        {
            "key": answer.key,
            "scope": answer.scope,
            "writer": answer.writer,
            "decision_id": answer.decision_id,
            "created_at": answer.created_at,
        }
    )
    return check_size(head + b"\n" + answer.payload)


def decode_exact(key: str, data: object) -> ExactAnswer:
    """The answer stored under `key`.

    Raises:
        Unreadable: See the module.
    """
    head, newline, payload = raw_bytes(data, MAX_VALUE_BYTES).partition(b"\n")
    if not newline:
        raise Unreadable("the exact answer has no payload")
    fields = Fields(head)
    fields.expect("key", key)
    return ExactAnswer(
        key=key,
        scope=fields.text("scope"),
        payload=payload,
        writer=fields.text("writer"),
        decision_id=fields.text("decision_id"),
        created_at=fields.number("created_at"),
    )


def encode_decision(decision: DecisionRecord) -> bytes:
    """A decision record.

    Raises:
        ValueError: It is too large to be decoded, or a feature is not finite.
    """
    return dump(
        {
            "id": decision.id,
            "scope": decision.scope,
            "task": decision.task,
            "arm": decision.arm,
            "features": list(decision.features),
            "example_ids": list(decision.example_ids),
            "propensity": decision.propensity,
            "explored": decision.explored,
            "version": decision.version,
            "created_at": decision.created_at,
            "exact_key": decision.exact_key,
            "admitted_id": decision.admitted_id,
            "prompt_tokens": decision.prompt_tokens,
            "completion_tokens": decision.completion_tokens,
        }
    )


def decode_decision(decision_id: str, data: object) -> DecisionRecord:
    """The record stored as `decision_id`.

    Raises:
        Unreadable: See the module.
    """
    fields = Fields(data)
    fields.expect("id", decision_id)
    return DecisionRecord(
        id=decision_id,
        scope=fields.text("scope"),
        task=fields.text("task"),
        arm=fields.text("arm"),
        features=fields.numbers("features"),
        example_ids=fields.texts("example_ids"),
        propensity=fields.number("propensity"),
        explored=fields.flag("explored"),
        version=fields.integer("version"),
        created_at=fields.number("created_at"),
        exact_key=fields.text("exact_key"),
        admitted_id=fields.text("admitted_id"),
        prompt_tokens=fields.integer("prompt_tokens"),
        completion_tokens=fields.integer("completion_tokens"),
    )


def encode_feedback(feedback: Feedback) -> bytes:
    """One entry of the feedback log.

    Raises:
        ValueError: It is too large to be decoded, or the score is not finite.
    """
    return dump(
        {
            "decision_id": feedback.decision_id,
            "rater": feedback.rater,
            "score": feedback.score,
            "at": feedback.at,
        }
    )


def decode_feedback(data: object) -> Feedback:
    """One entry of the feedback log.

    Raises:
        Unreadable: See the module.
    """
    fields = Fields(data)
    return Feedback(fields.text("decision_id"), fields.text("rater"), fields.number("score"), fields.number("at"))


# checkpoints --------------------------------------------------------------------------------------------------------


def encode_checkpoint(checkpoint: Checkpoint) -> EncodedCheckpoint:
    """Head and arrays; float64 is preserved bit by bit, NaN included.

    Raises:
        ValueError: It is too large to be decoded, or `meta` holds a number that is not finite.
        TypeError: `meta` is not JSON.
    """
    head = dump({"version": checkpoint.version, "offset": checkpoint.offset, "meta": dict(checkpoint.meta)})
    arrays = {name: np.asarray(array, dtype="<f8", order="C") for name, array in checkpoint.arrays.items()}
    return EncodedCheckpoint(head, check_size(save(arrays), MAX_ARRAYS_BYTES))


def decode_checkpoint(head: object, arrays: object) -> Checkpoint:
    """The checkpoint of these two parts, with writable arrays.

    Raises:
        Unreadable: See the module.
    """
    fields = Fields(head)
    return Checkpoint(fields.integer("version"), fields.integer("offset"), _arrays(arrays), fields.table("meta"))


def _arrays(data: object) -> dict[str, NDArray[np.float64]]:
    try:
        loaded = load(raw_bytes(data, MAX_ARRAYS_BYTES))
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise Unreadable(f"weights: {error}") from error
    if any(array.dtype != np.float64 for array in loaded.values()):
        raise Unreadable("the weights are not float64")
    return {name: array.copy() for name, array in loaded.items()}
