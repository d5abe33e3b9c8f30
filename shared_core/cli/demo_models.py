"""`iccache demo-models`: OpenAI-compatible endpoints on loopback, for the cookbooks and for trying things out."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path

from shared_core.demo import answer_server
from shared_core.demo.answer_file import AnswerFile
from shared_core.inference import serving


def run(answers: Path | None) -> None:
    """Serve until standard input ends, so that the models never outlive the program that started them.

    The first and only line of output is a JSON object: ``base_url`` and ``model`` of each by name, ``large`` only with
    a file of answers.

    Raises:
        ConfigurationError: The file cannot be used, or the small model is not installed.
        ExtraIsMissing: xllamacpp is not installed.
    """
    right = AnswerFile.read(answers) if answers else None
    with ExitStack() as servers:
        small = servers.enter_context(serving.served(serving.packaged_gguf()))
        models = {"small": {"base_url": small, "model": serving.MODEL}}
        if right is not None:
            large = servers.enter_context(answer_server.served(right))
            models["large"] = {"base_url": large, "model": right.name}
        sys.stdout.write(json.dumps(models) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
