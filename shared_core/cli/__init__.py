"""The program `iccache`: finds the command, runs it, and turns errors into exit codes.

Each command has its own file, with its options and its help. It imports what it needs when it is called.
"""

from __future__ import annotations

import errno
import io
import sqlite3
import sys
from typing import Any, Final

import typer

from shared_core.cli import demo, demo_models, doctor, estimate, feedback, learn, log, rounds
from shared_core.cli.flags import Command, Group
from shared_core.cli.output import give_up_stdout, warn
from shared_core.errors import ICCacheError

MISUSE: Final = 2
INTERRUPTED: Final = 130
READER_LEFT: Final = 1

# Typer names no public base of its usage errors, and its newer releases bring a Click of their own.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(
    cls=Group,
    name="iccache",
    add_completion=False,
    rich_markup_mode="markdown",  # whose paragraphs flow, and whose examples stay as they are
    help="""A small model answers like a large one when it is shown the large one's past answers.

Try it in this order:

1. `iccache demo` shows the idea with real models. It needs no server and no key.
2. `iccache estimate FILE` reads your own requests and counts how many have a neighbour to learn from.
3. `iccache demo --data FILE` runs on your own requests and models, before you change any code.

In your code, `from iccache_langchain import ICCacheChatModel` stands where your chat model stands. With LlamaIndex it
is `from iccache_llamaindex import ICCacheLLM`.

In production, `iccache learn` learns from the feedback that your services log, `iccache feedback` rates one answer from
outside of them, and `iccache log export` writes the log to a file, for your own analysis. `iccache doctor` says what of a
damaged store can be read, and saves it.""",
    epilog="Exit code 2: a file, option, endpoint or model cannot be used; one line on stderr names it and what to do. "
    "Exit code 130: the command was interrupted.",
)
for command in (demo.demo, estimate.estimate, learn.learn, doctor.doctor, demo_models.demo_models):
    app.command(cls=Command)(command)
# A score of -1 is not an option: the command itself says what is allowed.
app.command(cls=Command, context_settings={"ignore_unknown_options": True})(feedback.feedback)
log.app.command(cls=Command)(rounds.rounds)
app.add_typer(log.app, name="log")


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
        code = READER_LEFT  # as with `| head`: nobody reads any more
    except _UsageError as error:
        code = _refused(f"{error.format_message()} See {_path(error)} --help")
    except typer.Abort:
        code = INTERRUPTED
    except (ICCacheError, OSError, sqlite3.Error) as error:
        code = _refused(_reason(error))
    give_up_stdout()
    return int(code)


def _refused(reason: str) -> int:
    warn(reason)
    return MISUSE


def _reason(error: Exception) -> str:
    """The message of `error`, without the number that the system has for it."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error) or type(error).__name__
    if error.errno == errno.ENOSPC and error.filename is None:
        return f"the output cannot be written: {error.strerror}"
    return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror


def _path(error: Any) -> str:
    """The command that was misused, such as ``iccache log export``."""
    context, names = getattr(error, "ctx", None), []
    while context is not None and context.parent is not None:
        names.append(context.info_name)
        context = context.parent
    return " ".join(["iccache", *reversed(names)])
