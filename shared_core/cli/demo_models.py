"""`iccache demo-models`: two OpenAI-compatible endpoints on loopback, for the cookbooks and for trying things out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from shared_core.cli import answer_file
from shared_core.cli.jsonl import read_jsonl
from shared_core.inference import serving


def run(answers: Path) -> None:
    """Serve both models until standard input ends, so that they never outlive the program that started them.

    The first and only line of output is a JSON object: by name, ``base_url`` and ``model``.

    Raises:
        SettingIsWrong: The file cannot be used, or the small model is not installed.
        ExtraIsMissing: xllamacpp is not installed.
    """
    right = {row["request"]: row["answer"] for row in read_jsonl(answers, ["request", "answer"])}
    with serving.served(serving.packaged_gguf()) as small, answer_file.served(right) as large:
        models = {
            "small": {"base_url": small, "model": serving.MODEL},
            "large": {"base_url": large, "model": answer_file.MODEL},
        }
        sys.stdout.write(json.dumps(models) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
