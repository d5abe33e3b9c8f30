"""This tree against an earlier commit, in turns within one run: `decide` and every surface, sync and async.

Run with ``python -m benchmarks.turns`` (``--ref`` names the commit). Each turn starts one process for either tree; it
calls each surface through its public constructor, over the same pool and with models that answer at once, so that
what is measured is IC-Cache. Ratios are new / old, the median over turns, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
REF = "25038ca"
CALLS = 300
TURNS = 7
NOISE = 1.05  # p50 may differ by so much between two runs of the same code on a busy machine

CHILD = """
import asyncio, json, re, sys, time
import numpy as np
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from iccache_langchain import ICCache, ICCacheChatModel, ICCacheExampleSelector
from iccache_langchain.middleware import ICCacheMiddleware
from iccache_llamaindex import ICCacheLLM, ICCachePostprocessor
from langchain.agents import create_agent
from shared_core.values import Message, Request
try:
    from shared_core.adapters.offloop import off_loop
except ImportError:
    off_loop = None

CALLS = int(sys.argv[1])

class Words:
    tag = "words-256"
    def embed(self, texts):
        rows = np.zeros((len(texts), 256), np.float32)
        for row, text in zip(rows, texts):
            row[0] = 0.1
            for word in re.findall(r"\\w+", text.lower()):
                row[1 + sum(word.encode()) % 255] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

class Quick(BaseChatModel):
    model_name: str = "quick"
    @property
    def _llm_type(self): return "quick"
    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=AIMessage("an answer"))])
    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        return self._generate(messages)

PAIRS = [(f"heat room {n} of floor {n % 37} to {n % 11} degrees", f"climate set {n}") for n in range(2000)]
COMMON = dict(store="memory://", embedder=Words(), deadline=20.0)
ROUTING = dict(COMMON, background=False, reference="large", costs={"small": 0.1}, reward=None)
ask = lambda n: f"heat room {n} of floor {n % 31} please"

chat = ICCacheChatModel(arms={"small": Quick(), "large": Quick()}, **ROUTING)
chat.add_examples(PAIRS)
middleware = ICCacheMiddleware(arms={"small": Quick(), "large": Quick()}, **ROUTING)
middleware.add_examples(PAIRS)
agent = create_agent(Quick(), [], middleware=[middleware])
cache = ICCache("memory://")
selector = ICCacheExampleSelector(**COMMON)
selector.add_examples([{"input": q, "output": a} for q, a in PAIRS])
llm = ICCacheLLM(arms={"small": MockLLM(), "large": MockLLM()}, **ROUTING)
llm.add_examples(PAIRS)
shown = ICCachePostprocessor("memory://", embedder=Words(), settings=selector.engine.settings)
shown.engine.add_examples(PAIRS, scope="default", task="t")
shown = ICCachePostprocessor(engine=shown.engine, task="t")
engine = chat.engine
string = "[('_type', 'quick')]---[('stop', None)]"
nodes = [NodeWithScore(node=TextNode(text="a document"), score=0.5)]

def request(n):
    return Request((Message("user", ask(n)),), ask(n), task="t")

async def adecide(n):
    if hasattr(engine, "adecide"):
        return await engine.adecide(request(n))
    return await off_loop(engine.decide, request(n))

async def astream(n):
    return [chunk async for chunk in chat.astream(ask(n))]

CASES = {
    "decide": (lambda n: engine.decide(request(n)), adecide),
    "ICCacheChatModel": (lambda n: chat.invoke(ask(n)), lambda n: chat.ainvoke(ask(n))),
    "ICCacheChatModel, streamed": (lambda n: list(chat.stream(ask(n))), astream),
    "ICCacheMiddleware": (
        lambda n: agent.invoke({"messages": [HumanMessage(ask(n))]}),
        lambda n: agent.ainvoke({"messages": [HumanMessage(ask(n))]}),
    ),
    "ICCache, miss": (lambda n: cache.lookup(ask(n), string), lambda n: cache.alookup(ask(n), string)),
    "ICCacheExampleSelector": (
        lambda n: selector.select_examples({"input": ask(n)}),
        lambda n: selector.aselect_examples({"input": ask(n)}),
    ),
    "ICCacheLLM": (
        lambda n: llm.chat([ChatMessage(role="user", content=ask(n))]),
        lambda n: llm.achat([ChatMessage(role="user", content=ask(n))]),
    ),
    "ICCachePostprocessor": (
        lambda n: shown.postprocess_nodes(list(nodes), QueryBundle(ask(n))),
        lambda n: shown.apostprocess_nodes(list(nodes), QueryBundle(ask(n))),
    ),
}

def summary(seconds, cpu):
    ordered = sorted(seconds)
    return {"p50": ordered[len(ordered) // 2], "p99": ordered[int(len(ordered) * 0.99)], "cpu": cpu / len(ordered)}

def sync(call):
    for n in range(20): call(n)
    seconds, begun = [], time.process_time()
    for n in range(CALLS):
        at = time.perf_counter(); call(n + 100); seconds.append(time.perf_counter() - at)
    return summary(seconds, time.process_time() - begun)

async def asynchronous(call):
    for n in range(20): await call(n)
    seconds, begun = [], time.process_time()
    for n in range(CALLS):
        at = time.perf_counter(); await call(n + 100); seconds.append(time.perf_counter() - at)
    return summary(seconds, time.process_time() - begun)

found = {}
for name, (call, acall) in CASES.items():
    found[name + ", sync"] = sync(call)
    found[name + ", async"] = asyncio.run(asynchronous(acall))
print("RESULT" + json.dumps(found))
"""


def measured(tree: Path) -> dict[str, dict[str, float]]:
    """One process of one tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(CALLS)],
        capture_output=True,
        text=True,
        cwd=tree,
        env=environment,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if done.returncode or not lines:
        raise SystemExit(f"{tree}: {done.stderr[-3000:]}")
    return json.loads(lines[0].removeprefix("RESULT"))


def exported(ref: str, folder: Path) -> Path:
    """The tree of a commit."""
    archive = subprocess.run(["git", "archive", ref], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "x"], cwd=folder, input=archive, check=True)
    return folder


def compared(ref: str, turns: int) -> dict:
    """Both trees in turns, the first alternating."""
    runs: dict[str, list] = {"old": [], "new": []}
    with tempfile.TemporaryDirectory() as folder:
        trees = {"old": exported(ref, Path(folder)), "new": ROOT}
        for turn in range(turns):
            for which in ("old", "new") if turn % 2 == 0 else ("new", "old"):
                runs[which].append(measured(trees[which]))
                print(f"turn {turn + 1} of {turns}: {which} tree measured", file=sys.stderr, flush=True)
    rows, bounds = {}, []
    for case in runs["new"][0]:
        row = {}
        for figure in ("p50", "p99", "cpu"):
            ratios = [new[case][figure] / old[case][figure] for old, new in zip(runs["old"], runs["new"], strict=True)]
            row[f"{figure}, new / old"] = [statistics.median(ratios), min(ratios), max(ratios)]
        row["p50 old (ms)"] = statistics.median(old[case]["p50"] for old in runs["old"]) * 1e3
        row["p50 new (ms)"] = statistics.median(new[case]["p50"] for new in runs["new"]) * 1e3
        rows[case] = row
        for figure in ("p50", "cpu"):
            ratio = row[f"{figure}, new / old"][0]
            limit = 1.0 if case.endswith(", async") and figure == "p50" else NOISE
            bounds.append(
                {"bound": f"{case}: {figure} new / old ≤ {limit}", "measured": f"{ratio:.3f}", "holds": ratio <= limit}
            )
    return {"tables": {f"This tree against {ref}, {turns} turns of {CALLS} calls": rows}, "must_show": bounds}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ref", default=REF)
    parser.add_argument("--turns", type=int, default=TURNS)
    arguments = parser.parse_args()
    begun = time.time()
    result = compared(arguments.ref, arguments.turns)
    result |= {
        "title": "Before and after",
        "seconds": round(time.time() - begun),
        "command": "python -m benchmarks.turns",
    }
    (ROOT / "benchmarks/results/turns.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    for bound in result["must_show"]:
        print("holds" if bound["holds"] else "MISSES", bound["bound"], bound["measured"])


if __name__ == "__main__":
    main()
