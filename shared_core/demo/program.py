"""Runs `iccache demo` from its options to its report."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Final

from rich.console import Console

from shared_core.demo import domain
from shared_core.demo.answer_file import AnswerFile, Reply
from shared_core.demo.models import AskedOnce, Models, endpoint, reachable
from shared_core.demo.options import DemoOptions
from shared_core.demo.playground import play
from shared_core.demo.remarks import remarks
from shared_core.demo.results import report
from shared_core.demo.run import Demo
from shared_core.demo.view import Lines, Picture, Silent, View, conclusion, introduction
from shared_core.demo.workload import Workload, built_in, from_file
from shared_core.errors import ConfigurationError
from shared_core.extras import require
from shared_core.inference import serving
from shared_core.inference.embedders import default_embedder, packaged_minilm
from shared_core.inference.openai import without_secrets
from shared_core.inference.weights import eight_bit

WIDTH: Final = 100  # columns where there is no terminal
MAX_TOKENS: Final = 32  # of the built-in task; its longest command takes about 20


def run(options: DemoOptions) -> None:
    """Run the demo on the built-in task, or on the user's data and endpoints, and print what it measured.

    A run that is stopped prints what it measured until then.

    Raises:
        ConfigurationError: An option, file or endpoint cannot be used.
        ExtraIsMissing: A package of the demo is not installed.
        ModelFailed: A model gave no answer in the middle of the run.
    """
    require("openai", "openai", "demo")
    models: AbstractContextManager[Models]
    small, large = options.small, options.large
    if options.data is None:
        if any(given is not None for given in (small, large, options.system, options.reward)):
            raise ConfigurationError(
                "--small, --large, --system and --reward go with --data FILE.jsonl; without it the demo brings its own"
            )
        workload = built_in(options.seed, domain.SIZE if options.requests is None else options.requests)
        models = _built_in(workload, serving.packaged_gguf())
    else:
        if small is None or large is None:
            raise ConfigurationError("--data needs --small URL#model and --large URL#model, the models that answer it")
        workload = from_file(options, options.data)
        models = nullcontext(_own(small, large, options.max_tokens))
    _perform(workload, models, options)


def _perform(workload: Workload, models: AbstractContextManager[Models], options: DemoOptions) -> None:
    began = time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else WIDTH, quiet=options.as_json)
    console.print(introduction(workload))
    with ExitStack() as stack:
        with console.status("Loading the models …"):
            demo = stack.enter_context(Demo(workload, stack.enter_context(models), options.seed))
        try:
            with _view(console, workload, as_json=options.as_json) as view:
                demo.run(view)
        finally:  # what was measured cost time and money
            if demo.cases:
                _report(demo, console, round(time.monotonic() - began, 1), options)
        if console.is_terminal and sys.stdin.isatty():
            play(demo, console)


def _report(demo: Demo, console: Console, seconds: float, options: DemoOptions) -> None:
    """Print the figures of the cases that were done."""
    cases, workload, final = demo.cases, demo.workload, report(demo.cases)
    notes = remarks(cases, workload.reward, options.max_tokens)
    if options.as_json:
        about: dict[str, object] = {
            "requests": len(cases),
            "of": len(workload.requests),
            "seed": options.seed,
            "seconds": seconds,
        }
        about |= {"about": workload.about, "remarks": notes}
        sys.stdout.write(json.dumps(about | final.as_json()) + "\n")
        return
    if len(cases) < len(workload.requests):
        console.print(f"\nStopped after {len(cases)} of {len(workload.requests)} requests.", highlight=False)
    console.print(conclusion(final))
    for sentence in notes:
        console.print(sentence, markup=False, highlight=False)
    console.print(f"The run took {seconds:.0f} seconds. {workload.about_time}")


@contextmanager
def _built_in(workload: Workload, packaged: Path) -> Iterator[Models]:
    with eight_bit(packaged) as gguf, serving.served(gguf) as url:
        small = endpoint(url, serving.MODEL)
        large = AnswerFile({request: Reply(answer) for request, answer in workload.answers.items()})
        names = "the packaged small model", "the file of right answers"
        yield Models(small, large, packaged_minilm(), *names, MAX_TOKENS)


def _own(small: str, large: str, max_tokens: int) -> Models:
    near, far = reachable(small, "--small"), reachable(large, "--large")
    names = f"--small {without_secrets(small)}", f"--large {without_secrets(large)}"
    return Models(near, AskedOnce(far), default_embedder(), *names, max_tokens)


def _view(console: Console, workload: Workload, *, as_json: bool) -> View:
    if as_json:
        return Silent()
    return Picture(console, workload) if console.is_terminal else Lines(console, workload)
