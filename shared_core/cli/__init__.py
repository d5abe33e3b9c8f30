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

from shared_core.cli.demo import demo
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


app.command()(demo)


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
