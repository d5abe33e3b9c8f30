"""The command line: what it teaches, and how it fails."""

import json
import sys

import pytest

from shared_core import cli


def call(monkeypatch, *arguments):
    """Run `iccache` as the console script does; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["iccache", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code or 0


def refused(monkeypatch, capsys, *arguments):
    """The one line on stderr of a call that must fail with exit code 2 and say nothing on stdout."""
    assert call(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("iccache: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.fixture
def file(tmp_path):
    def write(text, name="mine.jsonl"):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_help_names_every_command_and_the_way_to_use_them(monkeypatch, capsys):
    assert call(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    for word in ("demo", "estimate", "learn", "ICCacheChatModel", "Exit code 2"):
        assert word in shown


def test_help_of_the_demo_says_what_it_costs_and_how_many_lines_it_takes(monkeypatch, capsys):
    assert call(monkeypatch, "demo", "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "the large model answers each request once",
        "without examples",
        "bring 120 or more",
        "--answer-field",
    ):
        assert words in shown


def test_help_of_the_learner_says_where_its_target_comes_from(monkeypatch, capsys):
    assert call(monkeypatch, "learn", "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "ICCACHE_QUALITY_TARGET or iccache.toml" in shown
    assert "must be the one of your services" in shown


def test_importing_the_command_line_is_quick_and_pulls_no_framework_and_no_model():
    import subprocess

    heavy = ("faiss", "langchain_core", "llama_index", "numpy", "openai", "pydantic", "sentence_transformers", "torch")
    code = (
        "import sys, time; began = time.process_time(); import shared_core.cli; took = time.process_time() - began; "
        f"print([m for m in {heavy} if m in sys.modules], took < 0.15)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[] True\n"
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ('{"request": "a"}\nnonsense\n', "line 2 is not JSON"),
        ('["a"]\n', "line 1 is not a JSON object"),
        ('{"prompt": "a"}\n', 'line 1 has no text in the field "request"'),
        ('{"request": "  "}\n', 'line 1 has no text in the field "request"'),
        ('{"request": 3}\n', 'line 1 has no text in the field "request"'),
        (b'{"request": "\xff"}\n', "is not UTF-8"),
        ('{"request": "a"}\n{"request": "cut \\ud83d"}\n', 'line 2: the field "request" holds half a character'),
        ('{"request": "a", "x": ' + "[" * 99_999 + "]" * 99_999 + "}", "line 1 is nested too deeply"),
    ],
)
def test_estimate_names_the_line_that_it_cannot_read(monkeypatch, capsys, file, text, complaint):
    assert complaint in refused(monkeypatch, capsys, "estimate", file(text))


def test_estimate_says_which_file_is_not_there(monkeypatch, capsys, tmp_path):
    assert "nowhere.jsonl cannot be read" in refused(monkeypatch, capsys, "estimate", tmp_path / "nowhere.jsonl")
    assert "cannot be read" in refused(monkeypatch, capsys, "estimate", tmp_path)


def test_estimate_refuses_an_embedder_that_does_not_exist(monkeypatch, capsys, file, tmp_path):
    folder = tmp_path / "no" / "such" / "model"
    line = refused(monkeypatch, capsys, "estimate", file('{"request": "a"}\n'), "--embedder", folder)
    assert str(folder) in line


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--store", "mysql://x", "--reference", "large"], "scheme 'mysql'"),
        (["--store", "memory://", "--reference", "large"], "memory://"),
        (["--store", "sqlite:///", "--reference", "large"], "has no file path"),
        (["--store", "sqlite:////nowhere/at/all/x.db", "--reference", "large"], "/nowhere/at/all"),
        (["--store", "sqlite:///x.db", "--reference", "large", "--once", "--every", "3"], "contradict"),
        (["--store", "sqlite:///x.db", "--reference", "large", "--every", "0"], "above 0"),
    ],
)
def test_learn_refuses_in_one_line(monkeypatch, capsys, tmp_path, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    assert complaint in refused(monkeypatch, capsys, "learn", *arguments)


def test_demo_refuses_in_one_line(monkeypatch, capsys, file):
    data = file('{"request": "a", "answer": "b"}\n')
    good = "http://127.0.0.1:9/v1#model"  # nothing listens on the discard port
    for arguments, complaint in [
        (["--data", data], "--small URL#model and --large URL#model"),
        (["--small", good], "go with --data"),
        (["--requests", "241"], "1 to 240"),
        (["--data", data, "--small", "here", "--large", good], "--small takes URL#model"),
        (["--data", data, "--small", "http://127.0.0.1:9/v1", "--large", good], "--small takes URL#model"),
        (
            ["--data", data, "--small", good, "--large", good],
            "--small: 'model' at http://127.0.0.1:9/v1 gave no answer",
        ),
        (["--data", file('{"request": "a", "answer": 3}\n', "bad.jsonl"), "--small", good, "--large", good], "line 1"),
        (["--data", "nowhere.jsonl", "--small", good, "--large", good], "nowhere.jsonl cannot be read"),
    ]:
        assert complaint in refused(monkeypatch, capsys, "demo", *arguments)


def test_a_missing_extra_is_one_line_with_the_command_that_mends_it(monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "openai" else find(name, *a))
    assert "openai is not installed; run: pip install 'iccache[demo]'" in refused(monkeypatch, capsys, "demo")


def test_learn_learns_from_the_log_and_says_what(monkeypatch, capsys, tmp_path):
    url = f"sqlite:///{tmp_path}/pool.db"
    write_feedback(url, [1.0, 0.0, 1.0])
    assert call(monkeypatch, "learn", "--store", url, "--reference", "large", "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["consumed"], first["published"], first["version"]) == (3, True, 1)
    assert call(monkeypatch, "learn", "--store", url, "--reference", "large") == 0
    assert "nothing to learn" in capsys.readouterr().out


def test_learn_goes_on_after_a_checkpoint_that_cannot_be_read(monkeypatch, capsys, tmp_path):
    import sqlite3

    url = f"sqlite:///{tmp_path}/pool.db"
    write_feedback(url, [1.0])
    assert call(monkeypatch, "learn", "--store", url, "--reference", "large") == 0
    with sqlite3.connect(tmp_path / "pool.db") as database:
        database.execute("UPDATE parts SET head = x'00'")
    write_feedback(url, [0.0], rater="second")
    capsys.readouterr()
    assert call(monkeypatch, "learn", "--store", url, "--reference", "large") == 0
    learned, router, statistics = capsys.readouterr().out.splitlines()
    assert learned == "learned from 1 rewards, published version 2"
    assert router.startswith("  router: 0 folded, 2 skipped (features), version 0 → 2, ")
    assert statistics.startswith("  statistics: 1 folded, version 0 → 2, ")


def test_learn_keeps_going_until_it_is_told_to_stop(tmp_path):
    import signal
    import subprocess

    url = f"sqlite:///{tmp_path}/pool.db"
    write_feedback(url, [1.0])
    command = [sys.executable, "-c", "from shared_core.cli import main; main()", "learn", "--store", url]
    command += ["--reference", "large", "--every", "0.05", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as learner:
        assert json.loads(learner.stdout.readline())["consumed"] == 1
        write_feedback(url, [0.5, 0.5], rater="second")
        consumed = 0
        while consumed < 2:
            consumed += json.loads(learner.stdout.readline())["consumed"]
        learner.send_signal(signal.SIGTERM)
        assert learner.wait(timeout=30) == 0


def write_feedback(url, scores, rater="user"):
    from shared_core.settings import Settings
    from shared_core.store import open_store
    from shared_core.records import DecisionRecord, Feedback

    store = open_store(url, settings=Settings())
    try:
        import time

        for n, score in enumerate(scores):
            key = f"{rater}-{n}"
            store.record(DecisionRecord(key, "default", "", "large", (), (), 1.0, False, 0, time.time()))
            store.append_feedback(Feedback(key, rater, score, time.time()))
    finally:
        store.close()
