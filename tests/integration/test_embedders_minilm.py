"""The packaged MiniLM, for real: no download, right geometry, safe from many threads."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from shared_core.inference.embedders import packaged_minilm


@pytest.fixture(scope="module")
def minilm():
    embedder = packaged_minilm()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        embedder.warm()
    return embedder


def test_paraphrases_are_nearer_than_strangers(minilm):
    base, same, other = minilm.embed(["heat the kitchen", "warm up the kitchen", "who wrote Hamlet?"])
    assert base.shape == (384,)
    assert base @ same > 0.7 > 0.3 > base @ other


def test_the_tail_of_a_long_text_still_counts(minilm):
    filler = "The quarterly report lists every shipment by port and weight. " * 200
    asks_heat, asks_play = minilm.embed([filler + "Heat the kitchen now.", filler + "Who wrote Hamlet?"])
    assert asks_heat @ asks_play < 0.999  # cut at its head alone, the two would be the same text


@pytest.mark.parametrize("script", ["kitchen heat 30 ", "부엌을 데워 주세요 ", "ls -la | grep '^d' > /tmp/x; "])
def test_head_and_tail_fit_the_model_in_any_script(minilm, script):
    long = "start " + script * 2000
    changed = minilm.embed([long + " please summarise this for me", long + " now translate it into French"])
    assert changed[0] @ changed[1] < 0.9999


def test_threads_get_what_one_thread_gets(minilm):
    texts = [f"set room {i} to {i} degrees" for i in range(24)]
    alone = minilm.embed(texts)
    with ThreadPoolExecutor(4) as pool:
        together = np.concatenate(list(pool.map(lambda text: minilm.embed([text]), texts)))
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_collector_leaves_a_loaded_model_alone():
    """In a process of its own, because freezing happens once a process."""
    program = (
        "import gc; from shared_core.inference.embedders import packaged_minilm\n"
        "packaged_minilm().warm(); first = gc.get_freeze_count()\n"
        "packaged_minilm().warm(); print(first, gc.get_freeze_count(), len(gc.get_objects()))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    first, second, left = map(int, run.stdout.split())
    assert 100_000 < second <= first  # torch and transformers; nothing was frozen later
    assert left < first / 2
