"""`iccache demo`: what it is for. Its options are declared where the demo reads them."""

from __future__ import annotations

import inspect
from typing import Any

from shared_core.demo.options import DemoOptions


def demo(**given: Any) -> None:
    r"""Watch a small model take over what a large one used to answer.

    Without --data, SmolLM2-135M runs in this process and learns an invented command language. The large model is a
    file of right answers. A run takes two to three minutes on two free cores, and needs no server and no key.

    With --data, the demo runs on your requests and your OpenAI-compatible endpoints; the key is OPENAI_API_KEY. Where
    a line has an "answer", the reward is equality with it; elsewhere it is overlap with the large model's answer. For
    answers in free words take `--reward f1`: the overlap in words, from 0 to 1.

    What it costs: the large model answers each request once. The small model answers the requests that it gets, and 24
    to 47 requests without examples, for comparison. Before the run, each model answers one short question.

    How many lines: bring 120 or more of one kind. With 120 lines of the built-in task, the small model answers 41% of
    them; with 80 lines 26%, with 40 lines 19%.

    For example:

        iccache demo --data mine.jsonl \
            --small http://localhost:8001/v1#qwen2.5-3b \
            --large http://localhost:8002/v1#qwen2.5-32b
    """
    from shared_core.demo.program import run

    run(DemoOptions(**given))


demo.__signature__ = inspect.signature(DemoOptions, eval_str=True)  # type: ignore[attr-defined]  # what Typer reads
