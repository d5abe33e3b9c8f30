"""This tree against an earlier commit, in turns within one run: `decide` and every surface, sync and async.

Run with ``python -m benchmarks.turns`` (``--ref`` names the commit). Each surface runs in one process per tree. Its
models answer without delay, so only IC-Cache is measured. The two processes make short blocks of calls in turns: the
machine's speed changes within seconds, and this way the changes affect both. Ratios are new / old. A pair of processes
gives one ratio; the table has the median over the pairs, the minimum and the maximum.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import ROOT, write_result
from benchmarks.turns_cases import CASES

REF = "25038ca"
PAIRS = 5  # pairs of processes a case
BLOCKS = 20  # that each process makes
CALLS = 25  # in a block
WARM = 100  # calls before the first block
NOISE = 1.05  # a tree compared with itself differs by so much at p50
FIGURES = ("p50", "p99", "cpu")
NOTES = (
    "Ratios new / old: the median over the pairs of processes, the least and the greatest. Below 1 the new tree is "
    "faster. Models answer without delay and an embedder counts words, so nearly all of the time is IC-Cache and the "
    "framework. A tree compared with itself gives p50 ratios of 0.93 to 1.01 and p99 ratios of 0.5 to 1.2."
)


class Child:
    """A process of one tree that makes the calls of one case."""

    def __init__(self, tree: Path, case: str, colour: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        self.seconds: list[float] = []
        self.cpu = 0.0
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks/turns_cases.py"), case, colour],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=tree,
            env=environment,
        )
        self._calls(WARM)

    def block(self) -> None:
        """Make one block of calls and keep what they took."""
        took, cpu = self._calls(CALLS)
        self.seconds += took
        self.cpu += cpu

    def close(self) -> dict[str, float]:
        """End the process; the figures of its calls."""
        self._process.stdin.close()
        self._process.wait(30)
        ordered = sorted(self.seconds)
        count = len(ordered)
        return {"p50": ordered[count // 2], "p99": ordered[int(count * 0.99)], "cpu": self.cpu / count}

    def _calls(self, count: int) -> tuple[list[float], float]:
        print(count, file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("BLOCK"):
                return json.loads(line.removeprefix("BLOCK"))
        raise SystemExit(f"{self._process.args} ended with {self._process.wait()}")


def pair(trees: dict[str, Path], case: str, colour: str) -> dict[str, dict[str, float]]:
    """Both trees in turns, the first alternating; the figures of either."""
    children = {which: Child(tree, case, colour) for which, tree in trees.items()}
    for turn in range(BLOCKS):
        for which in sorted(children, reverse=bool(turn % 2)):
            children[which].block()
    return {which: child.close() for which, child in children.items()}


def exported(ref: str, folder: Path) -> Path:
    """The tree of a commit."""
    archive = subprocess.run(["git", "archive", ref], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "x"], cwd=folder, input=archive, check=True)
    return folder


def row(pairs: list[dict[str, dict[str, float]]]) -> dict[str, object]:
    """One case of one colour: ratios as [median, least, greatest], and the p50 of either tree."""
    found: dict[str, object] = {}
    for figure in FIGURES:
        ratios = [each["new"][figure] / each["old"][figure] for each in pairs]
        found[f"{figure}, new / old"] = [statistics.median(ratios), min(ratios), max(ratios)]
    for which in ("old", "new"):
        found[f"p50 {which} (ms)"] = statistics.median(each[which]["p50"] for each in pairs) * 1e3
    return found


def bounds(case: str, colour: str, ratios: dict) -> list[dict]:
    """Not slower; for event loops, faster."""
    found = []
    for figure in FIGURES:
        ratio = ratios[f"{figure}, new / old"][0]
        limit = 1.0 if colour == "async" and figure == "p50" else NOISE
        bound = f"{case}, {colour}: {figure} new / old ≤ {limit}"
        found.append({"bound": bound, "measured": f"{ratio:.3f}", "holds": ratio <= limit})
    return found


def compared(ref: str, pairs: int, cases: list[str]) -> dict:
    """Every case, sync and async."""
    rows, must_show = {}, []
    with tempfile.TemporaryDirectory() as folder:
        trees = {"old": exported(ref, Path(folder)), "new": ROOT}
        for case in cases:
            for colour in ("sync", "async"):
                name = f"{case}, {colour}"
                rows[name] = row([pair(trees, case, colour) for _ in range(pairs)])
                must_show += bounds(case, colour, rows[name])
                print(name, {key: rows[name][key] for key in rows[name]}, file=sys.stderr, flush=True)
    table = f"This tree against {ref}: {pairs} pairs of processes, {BLOCKS} blocks of {CALLS} calls each"
    return {"tables": {table: rows}, "must_show": must_show}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ref", default=REF)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; nothing is written then")
    arguments = parser.parse_args()
    result = compared(arguments.ref, arguments.pairs, arguments.case or list(CASES))
    if not arguments.case:
        write_result("turns", {"title": "Before and after", "notes": NOTES} | result)
    for bound in result["must_show"]:
        print("holds" if bound["holds"] else "MISSES", bound["bound"], bound["measured"])


if __name__ == "__main__":
    main()
