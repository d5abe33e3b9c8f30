"""What runs in the processes that rate answers, and the answers that they rate."""

from __future__ import annotations

from multiprocessing.connection import Connection

import numpy as np

from shared_core.engine import Engine
from shared_core.settings import Settings
from shared_core.values import Arm, Decision, Message, Outcome, Request, Route, Selection
from tests.embedding import Words

SCOPE = "s"
ARMS = (Arm("small", 0.1), Arm("large", 1.0, uses_examples=False))


def answer_all(url: str, names: list[str]) -> None:
    """Store one answer of the small arm for each name."""
    engine = Engine(store=url, arms=ARMS, reference="large", embedder=Words(), background=False)
    for name in names:
        request = Request((Message("user", name),), name, SCOPE, task="t")
        vector = Words().embed([name])[0].astype(np.float32)
        decision = Decision(name, request, Route("small"), Selection(vector=vector), created_at=2e9)
        engine.submit_record(decision, Outcome(f"answer {name}", writer="tiny"))
    assert engine.flush(20)
    engine.close()


def rate_all(url: str, rater: str, names: str, line: Connection) -> None:
    """Rate each of these well once the other end says so, and say which is acknowledged."""
    engine = Engine(store=url, settings=Settings(), background=False)
    line.send_bytes(b"ready")
    line.recv_bytes()
    for name in names.split():
        engine.feedback(name, 1.0, rater)
        line.send_bytes(name.encode())
    line.send_bytes(f"admitted {engine.counters['admitted']}".encode())
    engine.close()
