"""What `Store.write` adds, as the arguments of the Redis script that stores it."""

from __future__ import annotations

import secrets
from typing import TypeAlias

from shared_core.records import Example
from shared_core.settings import Settings
from shared_core.store import codec
from shared_core.store.protocol import Write

Argument: TypeAlias = str | bytes | int | float


def arguments(write: Write, settings: Settings, now: float) -> list[Argument]:
    """The arguments for one record: each part begins with its kind."""
    args: list[Argument] = []
    if decision := write.decision:
        value = codec.encode_decision(decision)
        args += [
            "decision",
            decision.id,
            decision.scope,
            value,
            *_life(decision.created_at, settings.decision_ttl, now),
        ]
    if exact := write.exact:
        value = codec.encode_exact(exact)
        args += ["exact", exact.key, exact.scope, value, *_life(exact.created_at, settings.exact_ttl, now)]
    if write.example:
        args += ["example", *_example(write.example)]
    if waiting := write.waiting:
        entry, value = waiting.entry, codec.encode_waiting(waiting)
        args += ["waiting", waiting.decision_id, entry.scope, value, *_life(entry.created_at, settings.wait_ttl, now)]
        args += [settings.wait_answers, settings.wait_mb * 1_000_000]
    if admission := write.admission:
        args += ["claim" if admission.example is None else "admit", admission.decision_id, admission.scope]
        if admission.example is not None:
            args += [int(admission.claims), codec.admitted(admission.example.entry.id)]
            args += _example(admission.example)
    if feedback := write.feedback:
        call, value = secrets.token_hex(8), codec.encode_feedback(feedback)
        remember = _milliseconds(settings.decision_ttl)
        args += ["feedback", feedback.subject, feedback.rater, call, value, feedback.at, remember]
    return args


def answers(write: Write) -> int:
    """How many of its parts the script answers, each with whether it came in time."""
    return (write.admission is not None) + (write.feedback is not None)


def _example(example: Example) -> list[Argument]:
    entry, encoded = example.entry, codec.encode_example(example)
    head: list[Argument] = [entry.id, entry.scope, entry.created_at]
    return [*head, encoded.entry, encoded.statistics, encoded.texts, encoded.vector, entry.exact_key]


def _life(begins: float, seconds: float, now: float) -> tuple[float, int]:
    """When a value expires, and in how many milliseconds."""
    return begins + seconds, _milliseconds(begins + seconds - now)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
