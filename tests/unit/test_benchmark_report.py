"""Results as JSON, and the page generated from them."""

import json
import threading

import numpy as np
import pytest

from benchmarks.latency import figures, timed_at, timed_in_threads
from benchmarks.report import BEGIN, END, RESULTS, ROOT, render, write_result

RESULT = {
    "title": "A title",
    "seeds": [0, 1],
    "tables": {"one": {"ours": {"quality": [0.5, 0.4, 0.6], "calls": 1234}, "theirs": {"quality": [0.25, 0.2, 0.3]}}},
    "must_show": [
        {"bound": "better", "measured": "+0.25", "holds": True},
        {"bound": "faster", "measured": 3.5, "holds": False},
    ],
}


def test_a_result_says_how_and_on_what_it_was_measured(tmp_path):
    written = json.loads(write_result("one", RESULT, tmp_path).read_text())
    assert set(written) >= {"command", "commit", "hardware", *RESULT}
    assert written["hardware"]["cores"] >= 1
    assert written["tables"] == RESULT["tables"]


def test_the_page_holds_every_figure_and_keeps_what_stands_around_it(tmp_path):
    write_result("one", RESULT, tmp_path)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold figures\n{END}\nafter\n")
    text = render(tmp_path, page)
    assert text == page.read_text() == render(tmp_path, page)
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old figures" not in text
    assert "| ours | 0.500 [0.400, 0.600] | 1,234 |" in text
    assert "| theirs | 0.250 [0.200, 0.300] |  |" in text
    assert "| better | +0.25 | yes |" in text
    assert "| faster | 3.5 | **no** |" in text


def test_a_page_without_markers_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("written by hand")
    with pytest.raises(SystemExit, match="markers"):
        render(tmp_path, page)
    assert page.read_text() == "written by hand"


def test_figures_are_milliseconds_with_an_interval_around_the_percentile():
    seconds = np.random.default_rng(0).exponential(0.01, 2000)
    for name, percent in (("p50_ms", 50), ("p99_ms", 99)):
        value, low, high = figures(seconds)[name]
        assert value == pytest.approx(np.percentile(seconds, percent) * 1000, abs=1e-3)
        assert low <= value <= high
        assert low < high


@pytest.mark.parametrize("rate", [0, 1000])
def test_threads_time_every_call_once(rate):
    seen = []
    assert len(timed_in_threads(seen.append, [(n,) for n in range(11)], 3, rate)) == 11
    assert sorted(seen) == list(range(11))


def test_a_call_that_comes_late_is_timed_from_when_it_was_due():
    release = threading.Event()
    waits = [lambda: release.wait(0.2), lambda: None]
    late = timed_at(1000, lambda call: call(), [(wait,) for wait in waits])[1]
    assert late >= 0.19


def test_the_readme_states_what_was_measured():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").replace("**", "").split())
    measured = json.loads((RESULTS / "offload.json").read_text())["tables"]["nl2bash / qwen-coder-0.5b"]
    ours = "small + IC-Cache's examples (reference answers)"
    rows = {
        "Qwen2.5-Coder-0.5B alone": "always small",
        "copying the nearest past answer": "copy nearest (reference answers)",
        "0.5B with IC-Cache's examples (reference answers)": ours,
        "0.5B with IC-Cache's examples (600 answers by the 1.5B itself)": (
            "small + IC-Cache's examples (answers by the large model)"
        ),
    }
    for label, policy in rows.items():
        quality, (value, low, high) = measured[policy]["quality"][0], measured[policy]["minus_always_large"]
        assert f"| {label} | {quality:.2f} | {value:+.3f} [{low:+.3f}, {high:+.3f}] |" in readme
    assert f"| Qwen2.5-Coder-1.5B alone | {measured['always large']['quality'][0]:.2f} | |" in readme
    seconds = [measured[policy]["median_seconds"] for policy in (ours, "always large")]
    assert "{:.1f} s a request with examples against {:.1f} s".format(*seconds) in readme

    bounds = json.loads((RESULTS / "overhead.json").read_text())["must_show"]
    idle = [float(b["measured"].split()[0]) for b in bounds if "p50, idle (90,000)" in b["bound"]]
    assert "{:.1f} ms in SQLite, {:.1f} ms in Redis".format(*idle) in readme
