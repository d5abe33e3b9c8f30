"""The program behind `iccache demo`: sets the stage, runs, and reports."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
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
class Models:
    """What a run asks."""

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
    models: AbstractContextManager[Models]
    if data is None:
        if small is not None or large is not None:
            raise SettingIsWrong("--small and --large go with --data FILE.jsonl; without it the demo brings its models")
        workload = built_in(seed, domain.SIZE if requests is None else requests)
        models = _built_in(workload, serving.packaged_gguf())
    else:
        if small is None or large is None:
            raise SettingIsWrong("--data needs --small URL#model and --large URL#model, the models that answer it")
        workload = from_file(data, requests)
        models = nullcontext(_own(small, large, max_tokens))
    _perform(workload, models, seed, as_json=as_json)


def _perform(workload: Workload, models: AbstractContextManager[Models], seed: int, *, as_json: bool) -> None:
    began = time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else WIDTH, quiet=as_json)
    console.print(introduction(workload))
    with ExitStack() as stack:
        with console.status("Loading the models …"):
            asked = stack.enter_context(models)
            demo = stack.enter_context(Demo(workload, asked.small, asked.large, asked.embedder, seed))
        with _view(console, workload, as_json=as_json) as view:
            steps = demo.run(view)
        final = report(steps)
        seconds = round(time.monotonic() - began, 1)
        if as_json:
            about = {"requests": len(steps), "seed": seed, "seconds": seconds, "about": workload.about}
            sys.stdout.write(json.dumps(about | final.as_json()) + "\n")
            return
        console.print(conclusion(final))
        console.print(f"The run took {seconds:.0f} seconds. {workload.about_time}")
        if console.is_terminal and sys.stdin.isatty():
            play(demo, console)


@contextmanager
def _built_in(workload: Workload, packaged: Path) -> Iterator[Models]:
    with eight_bit(packaged) as gguf, serving.served(gguf) as url:
        small = openai_compatible(url, serving.MODEL, max_tokens=MAX_TOKENS)
        yield Models(small, AnswerFile(answers=dict(workload.answers)), packaged_minilm())


def _own(small: str, large: str, max_tokens: int) -> Models:
    near, far = reachable(small, "--small", max_tokens), reachable(large, "--large", max_tokens)
    return Models(near, AskedOnce(inner=far), default_embedder())


def _view(console: Console, workload: Workload, *, as_json: bool) -> View:
    if as_json:
        return Silent()
    return Picture(console, workload) if console.is_terminal else Lines(console, workload)
