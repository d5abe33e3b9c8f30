"""Values for store tests, each whole and different from the next."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from shared_core.records import (
    ArmRecord,
    Average,
    Checkpoint,
    DecisionRecord,
    Entry,
    ExactAnswer,
    Example,
    Feedback,
    Statistics,
    Texts,
    WaitingAnswer,
)
from shared_core.store.protocol import Lease, Publication, Store
from shared_core.text import digest

START = 1_700_000_000.0  # where FakeClock begins
DIMENSION = 8


def exact_key(scope: str, name: str) -> str:
    """A key as `Request.exact_key` makes it: the scope is a part of it."""
    return digest([scope, name])


def make_example(
    id: str = "e1",
    scope: str = "s",
    task: str = "t",
    created_at: float = START,
    exact_key: str = "",
    answer: str = "",
    statistics: Statistics = Statistics(),
) -> Example:
    texts = Texts(f"query of {id} in {scope}", answer or f"answer of {id} in {scope}\nsecond line ✓ 한국어")
    rng = np.random.default_rng(zlib.crc32(f"{scope}/{id}".encode()))
    vector = rng.normal(size=DIMENSION).astype(np.float32)
    entry = Entry(id, scope, task, "traffic", "large", created_at, texts.size, exact_key, statistics)
    return Example(entry, texts, vector / np.linalg.norm(vector))


def make_exact(key: str = "k1", scope: str = "s", created_at: float = START, payload: bytes = b"") -> ExactAnswer:
    return ExactAnswer(
        key, scope, payload or f'{{"key":"{key}"}}\n\x00\xff'.encode("latin-1"), "large", "d1", created_at
    )


def make_decision(
    id: str = "d1", scope: str = "s", created_at: float = START, arm: str = "small", *, vector: bool = True
) -> DecisionRecord:
    return DecisionRecord(
        id=id,
        scope=scope,
        task="t",
        arm=arm,
        features=(0.1, -2.5, 1 / 3),
        example_ids=("e1", "e2"),
        propensity=0.95,
        explored=True,
        version=3,
        created_at=created_at,
        exact_key="k1",
        admitted_id="e9",
        prompt_tokens=12,
        completion_tokens=7,
        cached_tokens=3,
        example_tokens=5,
        tier="explored",
        probe_of="d0",
        features_name="features-1",
        candidates=("e1", "e2", "e3"),
        similarity=(0.9, 0.75, -0.1),
        threshold=0.3,
        arms=(
            ArmRecord("small", 0.5, 0.1, 0.6, 0.55, 0.05, 0.01, True, 0.95, (0.8, 0.7, 0.0), (0, 1)),
            ArmRecord("large", 0.8, 0.1, 0.7, 0.2, 0.5, 0.0, True, 0.05),
        ),
        examples_propensity=0.5,
        surface={"characters": 12, "words": 3},
        seconds=1.5,
        first_token=0.25,
        money=0.1,
        ended="finished",
        error="TimeoutError",
        tool_calls=True,
        refused="tool_calls",
        vector=(np.arange(DIMENSION) / DIMENSION).astype(np.float16) if vector else None,
    )


def make_feedback(decision_id: str = "d1", rater: str = "user", score: float = 0.7, at: float = START) -> Feedback:
    return Feedback(decision_id, rater, score, at)


def make_waiting(
    decision_id: str = "d1", scope: str = "s", created_at: float = START, example_id: str = "", answer: str = ""
) -> WaitingAnswer:
    """The answer to a decision; its example is named after the decision."""
    example = make_example(example_id or f"e-{decision_id}", scope, created_at=created_at, answer=answer)
    return WaitingAnswer(decision_id, example.entry, example.texts, "embedder-1", example.vector)


def make_statistics(n: int = 1) -> Statistics:
    return Statistics(Average(1 / 3, n), Average(0.25, n + 1), 0.1 * n, START + n, 0.01 * n, n)


def publish(
    store: Store,
    checkpoint: Checkpoint,
    expected: tuple[int, int],
    statistics: Mapping[tuple[str, str], Statistics],
    lease: Lease,
    part: str = "router",
) -> bool:
    """Publish one part, with the version and offset of its checkpoint."""
    version, offset = checkpoint.version, checkpoint.offset
    return store.publish(Publication(expected, version, offset, {part: checkpoint}, statistics), lease)


def make_checkpoint(version: int = 1, offset: int = 0) -> Checkpoint:
    rng = np.random.default_rng(version)
    arrays = {"A": rng.normal(size=(3, 3)), "b": rng.normal(size=3), "scalar": np.array(1 / 3)}
    return Checkpoint(version, offset, arrays, {"arms": ["small", "large"], "rounds": version})
