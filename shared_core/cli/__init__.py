"""The command `iccache`. Each command imports what it needs when it is called."""

from __future__ import annotations

import errno
import io
import os
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from shared_core.cli.adapters import DemoOptions, Reward, langchain_demo
from shared_core.errors import ICCacheError

MISUSE: Final = 2
INTERRUPTED: Final = 130
READER_LEFT: Final = 1

# Typer names no public base of its usage errors, and its newer releases bring a Click of their own.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(
    name="iccache",
    add_completion=False,
    rich_markup_mode="rich",
    help="""A small model answers like a large one when it is shown the large one's past answers.

Three steps lead there. [bold]iccache demo[/bold] shows the idea with real models, without server or key.
[bold]iccache estimate[/bold] reads a file of your own requests and says whether they have neighbours to learn from.
[bold]iccache demo --data[/bold] then tries it on your own requests and endpoints, before you change any code.

In your code: [bold]from iccache_langchain import ICCacheChatModel[/bold], which stands where your chat model stands.
In production, [bold]iccache learn[/bold] is the program that learns from the feedback which your services log.""",
    epilog="Exit code 2: a file, option or endpoint cannot be used, or a model fails; one line on stderr says which, and "
    "what to do. 130: it was interrupted.",
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, and nothing else.")]


@app.command()
def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            help='Your own requests: JSON lines {"request": …, "answer": …}; the answer may be left out. Plain or '
            "gzipped; - is standard input."
        ),
    ] = None,
    small: Annotated[str | None, typer.Option(metavar="URL#MODEL", help="Your small model (with --data).")] = None,
    large: Annotated[str | None, typer.Option(metavar="URL#MODEL", help="Your large model (with --data).")] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="System message of every request (with --data).")
    ] = None,
    reward: Annotated[
        Reward | None,
        typer.Option(help="How an answer is compared with the file's (with --data). Default: equality."),
    ] = None,
    field: Annotated[str, typer.Option(help="The field that holds the request (with --data).")] = "request",
    answer_field: Annotated[str, typer.Option(help="The field that holds the right answer (with --data).")] = "answer",
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer (with --data). A longer one is cut, and never an example.")
    ] = 512,
    requests: Annotated[int | None, typer.Option(help="Stop after so many requests.")] = None,
    seed: Annotated[int, typer.Option(help="Of the task and of every random draw.")] = 0,
    as_json: Json = False,
) -> None:
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
    langchain_demo(
        DemoOptions(
            data=data,
            small=small,
            large=large,
            system=system,
            reward=reward,
            field=field,
            answer_field=answer_field,
            max_tokens=max_tokens,
            requests=requests,
            seed=seed,
            as_json=as_json,
        )
    )


@app.command()
def estimate(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSON lines in the order of arrival, one request a line, plain or gzipped; - is standard input."
        ),
    ],
    field: Annotated[str, typer.Option(help="The field that holds the request.")] = "request",
    embedder: Annotated[
        str | None, typer.Option(help="A sentence-transformers model, hub id or folder. Default: all-MiniLM-L6-v2.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how much of your own traffic has a near neighbour, before anything is set up.

    Every request is compared with the earlier ones only, as it would be in service. The IC-Cache paper found a
    neighbour above 0.8 for 70 % of the requests of its traces.
    """
    from shared_core.cli.estimate import run

    run(file, field=field, embedder=embedder, as_json=as_json)


@app.command()
def learn(
    store: Annotated[str, typer.Option(help="sqlite:///file.db, redis://host:port/db, …")],
    reference: Annotated[str, typer.Option(help="Name of the reference arm, as your chat model has it.")],
    once: Annotated[bool, typer.Option("--once", help="One round, then stop (for cron). The default.")] = False,
    every: Annotated[float | None, typer.Option(metavar="SECONDS", help="Keep going, with pauses.")] = None,
    as_json: Json = False,
) -> None:
    """Learn from the feedback that your services log, and publish what was learned.

    Needed only where the services themselves do not learn, or to keep it off their machines. Any number may run: one
    at a time holds the lease. Killed at any moment, it loses nothing and counts nothing twice.

    The setting quality_target says when an answer of another arm counts as good. It comes from ICCACHE_QUALITY_TARGET
    or iccache.toml in this folder, and must be the one of your services.
    """
    from shared_core.cli.learn import run

    run(store, reference=reference, once=once, every=every, as_json=as_json)


@app.command()
def demo_models(
    answers: Annotated[
        Path | None, typer.Argument(help='Right answers: JSON lines {"request": …, "answer": …, "tool": …}.')
    ] = None,
) -> None:
    """Serve the packaged small model, and a stand-in for a large one, for the cookbooks.

    Small: SmolLM2-135M. Large: no model, but the file of right answers behind the same protocol; it streams, and calls
    a tool where the line names one, with the answer as arguments. Prints one JSON line, {"small": {"base_url": …,
    "model": …}, "large": …}, and serves on loopback until its standard input ends.
    """
    from shared_core.cli.demo_models import run

    run(answers)


def main() -> None:
    """The console script. What the user can mend ends as one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character must not end the run
    sys.exit(_exit_code())


def _exit_code() -> int:
    """Run the command that the program's arguments name."""
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False) or 0
        sys.stdout.flush()
    except BrokenPipeError:
        code = READER_LEFT  # as with `| head`: nobody is left to be told
    except _UsageError as error:
        code = _refused(f"{error.format_message()} See {_path(error)} --help")
    except typer.Abort:
        code = INTERRUPTED
    except (ICCacheError, OSError, sqlite3.Error) as error:
        code = _refused(_reason(error))
    _give_up_stdout()
    return int(code)


def _refused(reason: str) -> int:
    sys.stderr.write(f"iccache: {' '.join(reason.split())}\n")
    return MISUSE


def _reason(error: Exception) -> str:
    """What `error` says, without the number that the system has for it."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error) or type(error).__name__
    if error.errno == errno.ENOSPC and error.filename is None:
        return f"the output cannot be written: {error.strerror}"
    return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror


def _path(error: Any) -> str:
    """The command that was misused, such as ``iccache learn``."""
    context = getattr(error, "ctx", None)
    return f"iccache {context.info_name}" if context is not None and context.parent is not None else "iccache"


def _give_up_stdout() -> None:
    """Where stdout takes nothing (a full disk), keep the interpreter from trying again, and complaining, at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
