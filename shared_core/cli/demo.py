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

    What it costs: the large model answers each request once. The small model answers those that it is given and, to
    compare, 24 to 47 of them (all, where there are fewer) without examples. Before that, each answers one short
    question.

    How many lines: of 40 lines of the built-in task the small model is given 19%, of 80 lines 26%, of 120 lines 41%;
    the first after 7 to 18 lines. Bring 120 or more of one kind.

    For example:

        iccache demo --data mine.jsonl \
            --small http://localhost:8001/v1#qwen2.5-3b \
            --large http://localhost:8002/v1#qwen2.5-32b
    """
    from shared_core.demo.program import run

    run(DemoOptions(**given))


demo.__signature__ = inspect.signature(DemoOptions, eval_str=True)  # type: ignore[attr-defined]  # what Typer reads
