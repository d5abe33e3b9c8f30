"""Does a small model with IC-Cache's examples reach the large one? NL2Bash (token F1) and CLINC150 (exact).

Every answer comes from a live model, called through `ICCacheChatModel` (or directly, for the baselines). Answers are
recorded as hash → output, so the tables can be recomputed without a model:

    python -m benchmarks.offload                 # from the recordings, about two minutes
    python -m benchmarks.offload --live qwen-coder-0.5b=http://127.0.0.1:8102/v1 …    # fills what is missing

The pool of the rows "by the large model" holds the answers of Qwen2.5-Coder-1.5B, as in the paper's claim.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from rich.progress import track

from benchmarks.embedding import Embeddings
from benchmarks.recording import Recorded, Recordings, call_key
from benchmarks.report import write_result
from benchmarks.statistics import paired_difference, share
from benchmarks.tasks import SEED, TASKS, Item, Task
from iccache_langchain import ICCacheChatModel
from shared_core.prompt import render
from shared_core.selector.combination import TIE_DECIMALS
from shared_core.values import Message, Request, ScoredExample

LARGE = "qwen-coder-1.5b"
SMALL = ("qwen-coder-0.5b", "smollm2-135m")
COSTS = {"qwen-coder-0.5b": 0.33, "smollm2-135m": 0.09}  # parameters relative to the large model's 1.5 B
LEARN_EVERY = 10  # requests
WRITTEN = {"nl2bash": 600, "clinc150": 400}  # requests that the large model answered to fill its own pool
EXAMPLES = 5
NOTES = (
    "Seconds are those of the model's call when it was recorded, on two cores. The median, because the recording machine "
    "was shared, and single calls waited for minutes."
)
ROLES = {"system": "system", "human": "user", "ai": "assistant"}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of one policy: `quality` in [0, 1], who gave it, and what it cost where it was recorded."""

    quality: float
    arm: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


class RecordedChat(BaseChatModel):
    """A greedy chat model that answers from recordings, and asks the live one for what is missing."""

    model_name: str
    max_tokens: int
    recordings: Any
    live: Any = None

    @property
    def _llm_type(self) -> str:
        return "recorded"

    @property
    def _identifying_params(self) -> Mapping[str, object]:
        return {"model_name": self.model_name, "max_tokens": self.max_tokens}

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        plain = [{"role": ROLES[m.type], "content": str(m.content)} for m in messages]
        call = self.recorded(plain)
        message = AIMessage(
            call.output,
            usage_metadata={
                "input_tokens": call.prompt_tokens,
                "output_tokens": call.completion_tokens,
                "total_tokens": call.prompt_tokens + call.completion_tokens,
            },
            response_metadata={
                "model_name": self.model_name,
                "finish_reason": "length" if call.completion_tokens >= self.max_tokens else "stop",
                "seconds": call.seconds,
            },
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def recorded(self, messages: Sequence[Mapping[str, str]]) -> Recorded:
        """The recorded call, or a live one that is then recorded."""
        key = call_key(self.model_name, messages, self.max_tokens)
        known = self.recordings.get(key)
        if known is not None:
            return known
        if self.live is None:
            raise SystemExit(
                f"no recording of a call to {self.model_name}; start it and pass --live {self.model_name}=URL"
            )
        call = self.live(messages, self.max_tokens)
        self.recordings.add(key, call)
        return call


def live_model(url: str, model: str) -> Callable[[Sequence[Mapping[str, str]], int], Recorded]:
    """Greedy calls to an OpenAI-compatible server."""
    import time

    import httpx

    client = httpx.Client(base_url=url.rstrip("/") + "/", timeout=600)

    def call(messages: Sequence[Mapping[str, str]], max_tokens: int) -> Recorded:
        body = {"model": model, "messages": list(messages), "temperature": 0, "max_tokens": max_tokens}
        begun = time.perf_counter()
        reply = client.post("chat/completions", json=body)
        seconds = round(time.perf_counter() - begun, 3)
        reply.raise_for_status()
        data = reply.json()
        usage = data["usage"]
        text = data["choices"][0]["message"]["content"]
        return Recorded(text, usage["prompt_tokens"], usage["completion_tokens"], seconds)

    return call


class Bench:
    """One task, one small model: every policy over the same requests in the same order."""

    def __init__(self, task: Task, small: RecordedChat, large: RecordedChat, embeddings: Embeddings) -> None:
        self.task = task
        self.small = small
        self.large = large
        self.embeddings = embeddings
        # the demonstration pool of the paper's claim: the same requests, answered by the large model itself
        self.asked = task.pool[: WRITTEN[task.name]]

    def policies(self) -> dict[str, Callable[[], list[Answer]]]:
        """Rows of the table, in order."""
        return {
            "always large": lambda: self._plain(self.large),
            "always small": lambda: self._plain(self.small),
            "small + 5 random examples (reference answers)": self._random,
            "copy nearest (reference answers)": lambda: self._copy(self.task.pool),
            "small + IC-Cache's examples (reference answers)": lambda: self._iccache(self.task.pool, route=False),
            "IC-Cache, routed (reference answers)": lambda: self._iccache(self.task.pool, route=True),
            "copy nearest (answers by the large model)": lambda: self._copy(self.written()),
            "small + IC-Cache's examples (answers by the large model)": lambda: self._iccache(
                self.written(), route=False
            ),
            "IC-Cache, routed (answers by the large model)": lambda: self._iccache(self.written(), route=True),
        }

    def written(self) -> list[Item]:
        """The pool that the large model wrote, without truncated answers."""
        pool = []
        for item in track(self.asked, f"{self.task.name}: pool by the large model"):
            call = self.large.recorded(self._messages(item))
            if call.output.strip() and call.completion_tokens < self.task.max_tokens:
                pool.append(Item(item.request, call.output))
        return pool

    def _messages(self, item: Item) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.task.system}, {"role": "user", "content": item.request}]

    def _answer(self, item: Item, arm: str, call: Recorded) -> Answer:
        quality = self.task.score(call.output, item.answer)
        return Answer(quality, arm, call.prompt_tokens, call.completion_tokens, call.seconds)

    def _plain(self, model: RecordedChat) -> list[Answer]:
        label = f"{self.task.name}: {model.model_name} alone"
        return [
            self._answer(i, model.model_name, model.recorded(self._messages(i)))
            for i in track(self.task.requests, label)
        ]

    def _random(self) -> list[Answer]:
        answers = []
        for item in track(self.task.requests, f"{self.task.name}: random examples"):
            drawn = random.Random(f"{SEED}:{item.request}").sample(list(self.task.pool), EXAMPLES)
            conversation = (Message("system", self.task.system), Message("user", item.request))
            shown = [ScoredExample("", 0.0, 0.0, d.request, d.answer) for d in drawn]
            insertion = render(Request(conversation, item.request), shown, "chat")
            messages = self._messages(item)
            messages[insertion.index : insertion.index] = [{"role": m.role, "content": m.text} for m in insertion.turns]
            answers.append(self._answer(item, self.small.model_name, self.small.recorded(messages)))
        return answers

    def _copy(self, pool: Sequence[Item]) -> list[Answer]:
        vectors = self.embeddings.embed([i.request for i in pool])
        queries = self.embeddings.embed([i.request for i in self.task.requests])
        nearest = np.argmax(np.round(queries @ vectors.T, TIE_DECIMALS), axis=1)  # of equally near ones the first
        return [
            Answer(self.task.score(pool[n].answer, item.answer), "copy", 0, 0, 0.0)
            for item, n in zip(self.task.requests, nearest, strict=True)
        ]

    def _iccache(self, pool: Sequence[Item], *, route: bool) -> list[Answer]:
        """Through `ICCacheChatModel`. Unrouted: everything goes to the small model and nothing is learned or added."""
        wanted = {item.request: item.answer for item in self.task.requests}
        knobs = {} if route else {"quality_target": 0.0, "cost_weight": 1000.0, "explore": 1.0}
        with tempfile.TemporaryDirectory() as folder:
            llm = ICCacheChatModel(
                arms={"small": self.small, "large": self.large},
                reference="large",
                costs={"small": COSTS[self.small.model_name], "large": 1.0},
                store=f"sqlite:///{folder}/pool.db",
                embedder=self.embeddings,
                reward=lambda request, answer: self.task.score(answer, wanted[request.query]),
                task=self.task.name,
                background=False,
                deadline=60.0,  # the recording machine is slow and shared; latency is benchmarks/overhead.py's subject
                seed=SEED,
                max_examples=EXAMPLES,
                **knobs,
            )
            llm.add_examples([(i.request, i.answer) for i in pool])
            llm.engine.maintain()
            chain = llm if route else llm.bind(iccache_no_store=True)
            label = (
                f"{self.task.name}: {self.small.model_name}, {'routed' if route else 'offloaded'}, {len(pool)} examples"
            )
            answers = [self._ask(llm, chain, n, item, route) for n, item in enumerate(track(self.task.requests, label))]
            llm.close()
        return answers

    def _ask(self, llm: ICCacheChatModel, chain: Any, n: int, item: Item, route: bool) -> Answer:
        if route and n % LEARN_EVERY == 0:
            llm.engine.flush(60)
            llm.engine.maintain()
        run_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{self.task.name}:{n}")  # the decision's random draw depends on it
        reply = chain.invoke([SystemMessage(self.task.system), HumanMessage(item.request)], config={"run_id": run_id})
        arm, usage = reply.response_metadata["iccache"]["arm"], reply.usage_metadata
        seconds = reply.response_metadata["seconds"]
        call = Recorded(str(reply.content), usage["input_tokens"], usage["output_tokens"], seconds)
        return self._answer(item, self.small.model_name if arm == "small" else LARGE, call)


def row(answers: Sequence[Answer], baseline: Sequence[Answer]) -> dict[str, object]:
    """The figures of one policy."""
    quality = np.array([a.quality for a in answers])
    offloaded = np.array([a.arm != LARGE for a in answers], dtype=float)
    tokens = {
        f"{who}_tokens": sum(a.prompt_tokens + a.completion_tokens for a in answers if (a.arm == LARGE) == large)
        / len(answers)
        for who, large in (("large", True), ("small", False))
    }
    return {
        "quality": share(quality).as_list(),
        "minus_always_large": paired_difference(quality, np.array([a.quality for a in baseline])).as_list(),
        "offload_share": float(offloaded.mean()),
        **{name: round(value, 1) for name, value in tokens.items()},
        "median_seconds": round(float(np.median([a.seconds for a in answers])), 2),
    }


def must_show(answers: Mapping[str, Sequence[Answer]]) -> list[dict[str, object]]:
    """The two bounds of the claim: with examples, the small model beats the large model alone, and beats copying."""
    ours = np.array([a.quality for a in answers["small + IC-Cache's examples (reference answers)"]])
    bounds = []
    for label, policy in (("the 1.5B model alone", "always large"), ("copying", "copy nearest (reference answers)")):
        difference = paired_difference(ours, np.array([a.quality for a in answers[policy]]))
        bounds.append(
            {
                "bound": f"NL2Bash: 0.5B with examples above {label}, 95 % interval excluding 0",
                "measured": difference.as_text(),
                "holds": bool(difference.low > 0),
            }
        )
    return bounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200, help="requests a task (default 200)")
    parser.add_argument("--live", nargs="*", default=[], metavar="MODEL=URL", help="OpenAI-compatible servers to ask")
    parser.add_argument("--small", nargs="*", default=SMALL, choices=SMALL, help="small models to run")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--pack", action="store_true", help="pack the recordings into their committed form")
    parser.add_argument("--out", type=Path, help="folder of the result (default benchmarks/results)")
    options = parser.parse_args()
    servers = dict(pair.split("=", 1) for pair in options.live)
    recordings = {name: Recordings(name) for name in (LARGE, *SMALL)}
    embeddings = Embeddings()

    def model(name: str, max_tokens: int) -> RecordedChat:
        live = live_model(servers[name], name) if name in servers else None
        return RecordedChat(model_name=name, max_tokens=max_tokens, recordings=recordings[name], live=live)

    tables: dict[str, object] = {}
    bounds: list[dict[str, object]] = []
    for task_name in options.tasks:
        task = TASKS[task_name](options.requests)
        for small in options.small:
            bench = Bench(task, model(small, task.max_tokens), model(LARGE, task.max_tokens), embeddings)
            answers = {label: policy() for label, policy in bench.policies().items()}
            baseline = answers["always large"]
            tables[f"{task_name} / {small}"] = {label: row(a, baseline) for label, a in answers.items()}
            if (task_name, small) == ("nl2bash", "qwen-coder-0.5b"):
                bounds = must_show(answers)
    if options.pack:
        for recorded in recordings.values():
            recorded.pack()
    write_result(
        "offload",
        {
            "title": "Quality and offload share with live models",
            "seeds": [SEED],
            "n": options.requests,
            "pool": {"reference answers": "all of the file but the requests", "by the large model": WRITTEN},
            "large": LARGE,
            "notes": NOTES,
            "tables": tables,
            "must_show": bounds,
        },
        options.out,
    )


if __name__ == "__main__":
    main()
