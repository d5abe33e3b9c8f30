"""`iccache demo-models`: OpenAI-compatible endpoints on loopback, for the cookbooks and for trying things out."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from typer import Argument

from shared_core.cli.output import write_json


def demo_models(
    answers: Annotated[
        Path | None,
        Argument(
            metavar="FILE",
            help='Right answers: JSON lines `{"request": …, "answer": …, "tool": …}`; the tool may be left out.',
        ),
    ] = None,
) -> None:
    """Serve the packaged small model, and a stand-in for a large one, for the cookbooks.

    The small model is SmolLM2-135M. The stand-in is a file of right answers behind the same protocol. It streams, and
    where a line names a tool, it calls that tool with the answer as arguments.

    The command prints one line of JSON, `{"small": {"base_url": …, "model": …}, "large": …}`. It serves on loopback
    until its standard input ends, so the models never outlive the program that started them.

    For example:

        iccache demo-models answers.jsonl
    """
    from shared_core.demo import answer_server
    from shared_core.demo.answer_file import AnswerFile
    from shared_core.inference import serving

    right = AnswerFile.read(answers) if answers else None
    with ExitStack() as servers:
        small = servers.enter_context(serving.served(serving.packaged_gguf()))
        models = {"small": {"base_url": small, "model": serving.MODEL}}
        if right is not None:
            large = servers.enter_context(answer_server.served(right))
            models["large"] = {"base_url": large, "model": right.name}
        write_json(models)
        sys.stdin.read()
