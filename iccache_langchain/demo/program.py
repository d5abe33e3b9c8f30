"""The program behind `iccache demo`: sets the stage, runs, and reports."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from langchain_core.language_models import BaseChatModel
from rich.console import Console

from iccache_langchain.demo import domain
from iccache_langchain.demo.models import AnswerFile, AskedOnce, openai_compatible, reachable
from iccache_langchain.demo.playground import play
from iccache_langchain.demo.results import report
from iccache_langchain.demo.run import Demo
from iccache_langchain.demo.view import Lines, Picture, Silent, View, conclusion, introduction
from iccache_langchain.demo.workload import Workload, built_in, from_file
from shared_core.errors import SettingIsWrong
from shared_core.inference import Embedder, serving
from shared_core.inference.embedders import default_embedder, packaged_minilm
from shared_core.inference.weights import eight_bit

WIDTH: Final = 100  # columns where there is no terminal
MAX_TOKENS: Final = 32  # of the built-in task; its longest command takes about 20


@dataclass(frozen=True, slots=True)
class Stage:
    """What a run needs."""

    workload: Workload
    small: BaseChatModel
    large: BaseChatModel
    embedder: Embedder


def run(
    *,
    data: Path | None,
    small: str | None,
    large: str | None,
    max_tokens: int,
    requests: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Run the demo on the built-in task, or on the user's data and endpoints, and print what it measured.

    Raises:
        SettingIsWrong: An option, file or endpoint cannot be used.
        ExtraIsMissing: A package of the demo is not installed.
        ModelFailed: A model gave no answer in the middle of the run.
    """
    setting: AbstractContextManager[Stage]
    if data is None:
        if small is not None or large is not None:
            raise SettingIsWrong("--small and --large go with --data FILE.jsonl; without it the demo brings its models")
        setting = _built_in(seed, domain.SIZE if requests is None else requests)
    else:
        if small is None or large is None:
            raise SettingIsWrong("--data needs --small URL#model and --large URL#model, the models that answer it")
        setting = nullcontext(_own(from_file(data, requests), small, large, max_tokens))
    began = time.monotonic()
    with setting as stage:
        _perform(stage, seed, began, as_json=as_json)


def _perform(stage: Stage, seed: int, began: float, *, as_json: bool) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    if not as_json:
        console.print(introduction(stage.workload))
    with Demo(stage.workload, stage.small, stage.large, stage.embedder, seed) as demo:
        with _view(console, stage.workload, as_json=as_json) as view:
            steps = demo.run(view)
        final = report(steps)
        seconds = round(time.monotonic() - began, 1)
        if as_json:
            about = {"requests": len(steps), "seed": seed, "seconds": seconds, "about": stage.workload.about}
            sys.stdout.write(json.dumps(about | final.as_json()) + "\n")
            return
        console.print(conclusion(final))
        console.print(f"The run took {seconds:.0f} seconds. {stage.workload.about_time}")
        if console.is_terminal and sys.stdin.isatty():
            play(demo, console)


@contextmanager
def _built_in(seed: int, size: int) -> Iterator[Stage]:
    workload = built_in(seed, size)
    with eight_bit(serving.packaged_gguf()) as gguf, serving.served(gguf) as url:
        small = openai_compatible(url, serving.MODEL, max_tokens=MAX_TOKENS)
        yield Stage(workload, small, AnswerFile(answers=dict(workload.answers)), packaged_minilm())


def _own(workload: Workload, small: str, large: str, max_tokens: int) -> Stage:
    near, far = reachable(small, "--small", max_tokens), reachable(large, "--large", max_tokens)
    return Stage(workload, near, AskedOnce(inner=far), default_embedder())


def _view(console: Console, workload: Workload, *, as_json: bool) -> View:
    if as_json:
        return Silent()
    return Picture(console, workload) if console.is_terminal else Lines(console, workload)
