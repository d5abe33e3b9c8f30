"""`iccache demo`: what it is for; its options are declared where the demo reads them."""

from __future__ import annotations

import inspect
from typing import Any

from shared_core.demo.options import DemoOptions


def demo(**given: Any) -> None:
    """Watch a small model take over what a large one used to answer.

    Without --data: SmolLM2-135M, served in this process, learns an invented command language from the answers of a
    "large model" that is a file of right answers. About three minutes on two cores; no server, no key.

    With --data: the same on your requests and OpenAI-compatible endpoints (the key is OPENAI_API_KEY). Where a line
    has an "answer", the reward is equality with it; elsewhere it is overlap with the large model's answer. For answers
    in free words take --reward f1: the overlap in words, from 0 to 1.

    What it costs: the large model answers each request once. The small one answers those that it is given and, to
    compare, some 24 to 47 of them (all, where there are fewer) without examples. Each is asked for one more word first.

    How many lines: of the built-in task, the 7th to 18th is the first that the small model is given. Of 40 lines it is
    given 19 %, of 80 26 %, of 120 41 %. Bring 120 or more of one kind.

        iccache demo --data mine.jsonl --small http://localhost:8001/v1#qwen2.5-3b --large http://gpu:8000/v1#qwen2.5-32b
    """
    from shared_core.demo.program import run

    run(DemoOptions(**given))


demo.__signature__ = inspect.signature(DemoOptions, eval_str=True)  # type: ignore[attr-defined]  # what Typer reads
