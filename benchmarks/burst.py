"""Many requests at once, in this tree and in an earlier one, in turns: how many are decided, and how many fall back.

Run with ``python -m benchmarks.burst`` (``--ref`` names the commit). Each tree has a process with the default MiniLM
and one with an embedder of 0.1 ms, two arms that answer without delay, 500 examples in SQLite, a reward function and
the learner at work. The requests come through LangChain's own `abatch` and `batch`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.report import ROOT, write_result
from benchmarks.turns import exported

REF = "11b0be8"  # each text embedded alone; refusals counted as failures
ROUNDS = 5
THREADS = (8, 16, 64)
CALLS_PER_THREAD = 12  # at least 200 calls
NOTES = (
    "A call is decided if it was routed with its examples within the deadline of 0.25 s, else it fell back. Median over "
    "the rounds, least and greatest. Goodput is decided calls a second. The two trees take turns. "
    "DependencyIsDown counts calls that an open circuit breaker refused."
)


class Child:
    """A process of one tree with one embedder."""

    def __init__(self, tree: Path, kind: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks/burst_cases.py"), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=tree,
            env=environment,
        )

    def ask(self, way: str, calls: int, at_once: int = 0, *, flush: bool = True) -> dict:
        """Ask for `calls` calls, `at_once` of them at the same time (0: all)."""
        wanted = {"way": way, "calls": calls, "at_once": at_once, "flush": flush}
        print(json.dumps(wanted), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("FOUND"):
                return json.loads(line.removeprefix("FOUND"))
        raise SystemExit(f"{self._process.args} ended with {self._process.wait()}")

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait(60)


def one_round(minilm: Child, quick: Child) -> dict[str, dict]:
    """Every burst once; result by its name."""
    found = {}
    for way, name in (("abatch", "abatch"), ("batch", "threads")):
        found[f"32 at once, {name}"] = minilm.ask(way, 32)
        found[f"100 at once, {name}"] = minilm.ask(way, 100, flush=False)
        found[f"the next 100, {name}"] = minilm.ask(way, 100)
    for threads in THREADS:
        found[f"{threads} threads"] = minilm.ask("batch", max(200, threads * CALLS_PER_THREAD), threads)
    found["1,000 by 64 threads, 0.1 ms"] = quick.ask("batch", 1000, 64)
    found["1,000 by abatch, 64 at once, 0.1 ms"] = quick.ask("abatch", 1000, 64)
    found["1,000 at once, abatch, 0.1 ms"] = quick.ask("abatch", 1000)
    return found


def measured(ref: str, rounds: int) -> dict[str, list[dict[str, dict]]]:
    """The rounds of either tree; the first alternates."""
    found: dict[str, list[dict[str, dict]]] = {"old": [], "new": []}
    with tempfile.TemporaryDirectory() as folder:
        trees = {"old": exported(ref, Path(folder)), "new": ROOT}
        children = {which: (Child(tree, "minilm"), Child(tree, "quick")) for which, tree in trees.items()}
        for turn in range(rounds):
            for which in sorted(children, reverse=bool(turn % 2)):
                found[which].append(one_round(*children[which]))
                print(
                    which, {k: (v["decided"], round(v["seconds"], 2)) for k, v in found[which][-1].items()}, flush=True
                )
        for child in (child for pair in children.values() for child in pair):
            child.close()
    return found


def spread(values: list[float]) -> list[float]:
    """Median, least and greatest."""
    return [statistics.median(values), min(values), max(values)]


def goodput(burst: dict) -> float:
    """Decided calls a second."""
    return burst["decided"] / burst["seconds"]


def table(found: dict[str, list[dict[str, dict]]]) -> dict[str, dict]:
    """One row for each burst."""
    rows = {}
    for name in found["new"][0]:
        row: dict[str, object] = {}
        for which, rounds in found.items():
            bursts = [each[name] for each in rounds]
            row[f"decided, {which}"] = spread([burst["decided"] for burst in bursts])
            row[f"goodput, {which}"] = spread([goodput(burst) for burst in bursts])
            fallbacks = sum((Counter(burst["fallbacks"]) for burst in bursts), Counter())
            row[f"fallbacks, {which}"] = ", ".join(f"{error} {n}" for error, n in fallbacks.most_common()) or "none"
        rows[name] = row
    return rows


def bounds(rounds: list[dict[str, dict]]) -> list[dict]:
    """What must hold of the new tree."""

    def least(name: str) -> int:
        return min(each[name]["decided"] for each in rounds)

    def middle(name: str) -> float:
        return statistics.median(goodput(each[name]) for each in rounds)

    found = []
    for way in ("abatch", "threads"):
        fell = 32 - least(f"32 at once, {way}")
        found.append(bound(f"32 at once, {way}: none falls back, in any round", f"at most {fell}", holds=fell == 0))
        first, following = least(f"100 at once, {way}"), least(f"the next 100, {way}")
        found.append(bound(f"100 at once, {way}: at least 60 decided, in every round", f"{first}", holds=first >= 60))
        found.append(bound(f"the next 100, {way}: at least 60, too", f"{following}", holds=following >= 60))
        means = [
            statistics.mean(each[f"{which}, {way}"]["decided"] for each in rounds)
            for which in ("the next 100", "100 at once")
        ]
        found.append(
            bound(
                f"the next 100, {way}: on average as many as of the first, 5 % for noise",
                f"{means[0]:.1f} and {means[1]:.1f}",
                holds=means[0] >= 0.95 * means[1],
            )
        )
    opened = sum(burst["fallbacks"].get("DependencyIsDown", 0) for each in rounds for burst in each.values())
    found.append(bound("no breaker opens, in any burst", f"{opened} refused", holds=opened == 0))
    found += [
        bound(f"{name}: none falls back", f"at most {1000 - least(name)}", holds=least(name) == 1000)
        for name in ("1,000 by 64 threads, 0.1 ms", "1,000 by abatch, 64 at once, 0.1 ms")
    ]
    eight = middle("8 threads")
    for threads in THREADS[1:]:
        many = middle(f"{threads} threads")
        what = f"goodput at {threads} threads at least that at 8"
        found.append(bound(what, f"{many:.0f}/s and {eight:.0f}/s", holds=many >= eight))
    return found


def bound(what: str, measured: str, *, holds: bool) -> dict:
    """One line of the result."""
    return {"bound": what, "measured": measured, "holds": holds}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ref", default=REF)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, help="folder of the result (default benchmarks/results)")
    arguments = parser.parse_args()
    found = measured(arguments.ref, arguments.rounds)
    must_show = bounds(found["new"])
    tables = {f"This tree (new) against {arguments.ref} (old), {arguments.rounds} rounds": table(found)}
    result = {"title": "Many requests at once", "notes": NOTES, "tables": tables, "must_show": must_show}
    write_result("burst", result, arguments.out)
    for each in must_show:
        print("holds" if each["holds"] else "MISSES", each["bound"], each["measured"])


if __name__ == "__main__":
    main()
