"""`iccache demo --data` against scripted endpoints: what it says when it learns, when it cannot, and when it breaks off."""

import json
import signal
import os

import pytest

pytest.importorskip("openai")

from shared_core.demo import domain, program  # noqa: E402
from shared_core.demo.models import PROBE, reachable  # noqa: E402
from shared_core.demo.remarks import early_warning, remarks  # noqa: E402
from shared_core.demo.texts import shortened  # noqa: E402
from shared_core.demo.options import Reward  # noqa: E402
from shared_core.errors import ConfigurationError  # noqa: E402
from shared_core.inference.openai import without_secrets  # noqa: E402
from tests.embedding import Words  # noqa: E402
from tests.openai_server import Refused, Reply, openai_server  # noqa: E402
from tests.unit.test_cli import call, refused  # noqa: E402
from tests.unit.test_demo_domain import case  # noqa: E402

PAIRS = domain.pairs()[:40]
RIGHT = {pair.request: pair.answer for pair in PAIRS}


def apt(asked):
    """Large: the right answer. Small: the right one if it was shown one of its form."""
    if asked.query == PROBE:
        return "yes"
    right = RIGHT[asked.query]
    shown = [text.split()[:2] for role, text in asked.turns if role == "assistant"]
    return right if asked.model == "big" or right.split()[:2] in shown else "no idea"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(program, "default_embedder", Words)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with openai_server(apt) as running:
        yield running


@pytest.fixture
def data(tmp_path):
    def write(n, **row):
        file = tmp_path / "mine.jsonl"
        rows = [{"request": pair.request, "answer": pair.answer} | row for pair in PAIRS[:n]]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    return write


def arguments(server, file, *more):
    return ["demo", "--data", file, "--small", f"{server.url}#little", "--large", f"{server.url}#big", *more]


def says(capsys):
    """Stdout without line breaks, and stderr."""
    captured = capsys.readouterr()
    return " ".join(captured.out.split()), captured.err


def test_the_small_model_takes_over(monkeypatch, capsys, server, data):
    assert call(monkeypatch, *arguments(server, data(40), "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["requests"] == result["of"] == 40
    assert result["with_examples"]["n"] >= 5
    assert result["remarks"] == []
    assert server.count("big") == 41  # one to see whether it is there, and no request twice


def test_the_system_message_reaches_both_models(monkeypatch, capsys, server, data):
    assert call(monkeypatch, *arguments(server, data(3), "--system", "Commands only.")) == 0
    asked = [a for a in server.asked if a.query != PROBE]
    assert {a.model for a in asked} == {"little", "big"}
    assert {a.turns[0] for a in asked} == {("system", "Commands only.")}


def test_free_words_never_equal_the_file_and_the_user_hears_it_once(monkeypatch, capsys, server, data):
    server.answer = lambda asked: f"Sure! {apt(asked)}" if asked.model == "big" else apt(asked)
    assert call(monkeypatch, *arguments(server, data(30))) == 0
    out, _ = says(capsys)
    assert out.count("No answer of the large model to the first 10 requests equals the file's") == 1
    assert "--system TEXT" in out
    assert "--reward f1" in out
    assert "shown no examples: the large model's own answers score 0.00 on average" in out


def test_f1_makes_the_same_answers_useful(monkeypatch, capsys, server, data):
    server.answer = lambda asked: f"Sure! {apt(asked)}" if asked.model == "big" else apt(asked)
    assert call(monkeypatch, *arguments(server, data(30), "--reward", "f1", "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert "overlap in words (F1) with the answer in the file" in result["about"][-1]
    assert 0.5 < result["rows"][0]["whole"]["quality"] < 1.0
    assert result["with_examples"]["n"] > 0


def test_answers_that_are_cut_are_counted(monkeypatch, capsys, server, data):
    def cut(asked):
        return Reply(apt(asked)[:9], finish_reason="length") if asked.model == "big" else apt(asked)

    server.answer = cut
    assert call(monkeypatch, *arguments(server, data(12), "--max-tokens", "7")) == 0
    out, _ = says(capsys)
    assert "12 of 12 answers of the large model were cut at --max-tokens 7 and cannot be examples." in out
    assert "shown no examples: most answers of the large model were cut or empty" in out


def test_without_answers_nothing_is_called_right(monkeypatch, capsys, server, data):
    file = data(40, answer=None)
    assert call(monkeypatch, *arguments(server, file)) == 0
    out, _ = says(capsys)
    assert 'gives no answers (field "answer")' in out
    assert "right" not in out
    assert "Always large agrees with itself" in out
    line = refused(monkeypatch, capsys, *arguments(server, file, "--reward", "equality"))
    assert "--answer-field" in line


def test_the_fields_may_have_other_names(monkeypatch, capsys, server, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"prompt": p.request, "output": p.answer}) + "\n" for p in PAIRS[:3]))
    line = refused(monkeypatch, capsys, *arguments(server, file))
    assert 'its fields are: "prompt", "output"; choose another one with --field' in line
    assert call(monkeypatch, *arguments(server, file, "--field", "prompt", "--answer-field", "output")) == 0
    assert "equality with the answer in the file" in says(capsys)[0]


def test_a_server_that_counts_no_tokens_is_not_said_to_use_none(monkeypatch, capsys, server, data):
    server.answer = lambda asked: Reply(apt(asked), usage=None)
    assert call(monkeypatch, *arguments(server, data(40))) == 0
    assert "tokens unknown: it reports none" in says(capsys)[0]


@pytest.mark.parametrize(("model", "option"), [("big", "--large"), ("little", "--small")])
def test_a_model_that_fails_leaves_what_was_measured(monkeypatch, capsys, server, data, model, option):
    def failing(asked):
        if asked.model == model and server.count(model) > 6:
            raise Refused(400)
        return apt(asked)

    server.answer = failing
    address = server.url.replace("//", "//me:secret@")
    given = ["--small", f"{address}#little", "--large", f"{address}#big"]
    assert call(monkeypatch, "demo", "--data", data(20), *given) == 2
    out, err = says(capsys)
    assert "Stopped after 5 of 20 requests" in out
    assert "copy nearest" in out
    assert f"iccache: {option} {server.url}#{model} gave no answer to " in err
    assert "scripted refusal" in err
    assert "secret" not in out + err
    assert err.count("\n") == 1


def test_ctrl_c_leaves_what_was_measured(monkeypatch, capsys, server, data):
    def interrupting(asked):
        if asked.model == "big" and server.count("big") == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return apt(asked)

    server.answer = interrupting
    assert call(monkeypatch, *arguments(server, data(20), "--json")) == 130
    result = json.loads(capsys.readouterr().out)
    assert (result["requests"], result["of"]) == (3, 20)


def test_a_small_model_that_fails_with_examples_is_told(monkeypatch, capsys, server, data):
    def failing(asked):
        if asked.model == "little" and any(role == "assistant" for role, _ in asked.turns):
            raise Refused(400)
        return apt(asked)

    server.answer = failing
    assert call(monkeypatch, *arguments(server, data(40))) == 0
    out, _ = says(capsys)
    assert "of 40 requests fell back; the first because small failed: " in out
    assert "shown no examples: where it was to answer, the large model had to." in out


def test_why_no_examples_were_shown():
    def why(n, **said):
        cases = [case(i, offloaded=False, score=1.0, **said) for i in range(n)]
        return remarks(cases, Reward.EQUALITY, 9)[-1]

    assert "8 requests are too few" in why(8)
    assert "near enough" in why(80)
    assert "score 0.20 on average, too little to be trusted; describe how to answer with --system" in why(
        80, large_score=0.2
    )
    assert "were cut or empty" in why(80, flaw="unusable")


def test_the_warning_needs_ten_zeros():
    wrong = [case(i, offloaded=False, score=0.0, large_score=0.0) for i in range(10)]
    assert early_warning([*wrong[:9], case(9, offloaded=False, score=1.0)], Reward.EQUALITY) is None
    assert "has a word in common" in early_warning(wrong, Reward.F1)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n b", "a b"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 199 + "…"),
        ("x" + " " * 5000 + "y", "x…"),
    ],
)
def test_a_text_of_any_length_becomes_a_line(text, line):
    assert shortened(text) == line


def test_no_secret_gets_into_a_message(monkeypatch):
    assert without_secrets("https://me:p@ss@host:8000/v1?key=abc#model") == "https://host:8000/v1#model"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abc")
    with pytest.raises(ConfigurationError) as error:
        reachable("http://me:p@ss@127.0.0.1:9/v1?key=xyz#model", "--small")
    words = str(error.value)
    assert words.startswith("--small: 'model' at http://127.0.0.1:9/v1 gave no answer")
    assert not any(secret in words for secret in ("sk-abc", "xyz", "p@ss"))
