"""A learner process is killed with SIGKILL at random moments; what it learned is what one pass over the log gives."""

import random
import signal
import subprocess
import sys
import time

import numpy as np

from shared_core.assembly import trainees
from shared_core.learning.learner import LEASE_SECONDS, Learner
from shared_core.router import state
from shared_core.router.bandit import observe
from shared_core.router.features import DIMENSION
from shared_core.settings import Settings
from shared_core.store import open_store
from shared_core.records import Average, DecisionRecord, Entry, Example, Feedback, Texts

ROUNDS = 6
PER_ROUND = 60

CHILD = """
import sys, time
from shared_core.assembly import trainees
from shared_core.learning import learner
from shared_core.settings import Settings
from shared_core.store import open_store

url, owner, ahead = sys.argv[1], sys.argv[2], float(sys.argv[3])
clock = lambda: time.time() + ahead
learner.BATCH = 3
one = learner.Learner(open_store(url, settings=Settings(), clock=clock), trainees("large", Settings()), clock, owner)
while True:
    print(one.round().consumed, flush=True)
"""


def test_every_entry_counts_once_however_often_the_learner_is_killed(tmp_path):
    url = f"sqlite:///{tmp_path}/learn.db"
    store = open_store(url, settings=Settings(), clock=time.time)
    entry = Entry("e", "s", "t", "traffic", "large", time.time(), 10)
    store.record(example=Example(entry, Texts("q", "a"), np.ones(4, dtype=np.float32) / 2))
    rng, moments = np.random.default_rng(5), random.Random(5)
    posterior, helpfulness, killed_at = state.initial(reference=False), Average(), []

    for turn in range(ROUNDS):
        for i in range(PER_ROUND):
            x, score = rng.normal(scale=0.3, size=DIMENSION), float(rng.random())
            decision_id = f"{turn}-{i}"
            store.record(
                decision=DecisionRecord(
                    decision_id, "s", "t", "small", tuple(x.tolist()), ("e",), 1.0, False, 0, time.time()
                )
            )
            store.append_feedback(Feedback(decision_id, "user", score, time.time()))
            posterior, helpfulness = observe(posterior, x, score), helpfulness.update(score)
        ahead = str(turn * (LEASE_SECONDS + 1))  # so that the lease of the one killed before has run out
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, url, f"child {turn}", ahead], stdout=subprocess.PIPE, text=True
        )
        try:
            for _ in range(moments.randint(1, PER_ROUND // 3 - 2)):
                assert child.stdout.readline() == "3\n"
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait(timeout=10)
            child.stdout.close()
        killed_at.append(store.progress().offset)

    assert any(offset < PER_ROUND * (turn + 1) for turn, offset in enumerate(killed_at))  # it was cut short
    store.close()
    store = open_store(url, settings=Settings(), clock=lambda: time.time() + ROUNDS * (LEASE_SECONDS + 1))
    Learner(store, trainees("large", Settings()), time.time, "heir").run_until_drained()

    checkpoint = store.checkpoint("router")
    (learned,) = state.read(checkpoint)[0].values()
    assert checkpoint.offset == learned.count == ROUNDS * PER_ROUND
    assert learned.precision.tobytes() == posterior.precision.tobytes()
    assert learned.shift.tobytes() == posterior.shift.tobytes()
    (row,) = store.rows("s", ["e"])
    assert row.entry.statistics.helpfulness == helpfulness
    assert store.feedback(checkpoint.offset) == []
    store.close()
