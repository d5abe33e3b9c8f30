"""The one place where the command line reaches up to an adapter: by name, since the core imports no framework."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from shared_core.errors import ExtraIsMissing


class Reward(StrEnum):
    """How an answer is compared with the right one."""

    EQUALITY = "equality"
    F1 = "f1"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What `iccache demo` was called with; None where an option was left out.

    Attributes:
        data: The user's requests; the built-in task without.
        small: ``URL#model``, as is `large`.
        system: System message of every request.
        reward: How answers are scored; by default equality where the file gives the right one.
        field: The field of `data` that holds the request.
        answer_field: The one that holds the right answer.
        max_tokens: Longest answer, at least 1.
        requests: Stop after so many.
        seed: Of the task and of every random draw.
        as_json: Print one JSON object.
    """

    data: Path | None = None
    small: str | None = None
    large: str | None = None
    system: str | None = None
    reward: Reward | None = None
    field: str = "request"
    answer_field: str = "answer"
    max_tokens: int = 512
    requests: int | None = None
    seed: int = 0
    as_json: bool = False


def langchain_demo(options: DemoOptions) -> None:
    """Run `iccache_langchain.demo.program`.

    Raises:
        ExtraIsMissing: LangChain is not installed.
        ICCacheError: The demo cannot run as asked.
    """
    if importlib.util.find_spec("langchain_core") is None:
        raise ExtraIsMissing("langchain-core", "demo")
    importlib.import_module("iccache_langchain.demo.program").run(options)
