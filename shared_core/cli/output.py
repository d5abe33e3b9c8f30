"""What commands print: results on stdout, flushed line by line for services that read a pipe, and errors on stderr."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress


def write(line: str) -> None:
    """One line on stdout."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def write_json(value: object) -> None:
    """One line of JSON on stdout."""
    write(json.dumps(value))


def warn(message: str) -> None:
    """One line on stderr, with the program's name."""
    sys.stderr.write(f"iccache: {' '.join(message.split())}\n")
    sys.stderr.flush()


def give_up_stdout() -> None:
    """Where stdout takes nothing (a full disk), keep the interpreter from trying again, and complaining, at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
