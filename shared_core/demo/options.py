"""What `iccache demo` can be called with: each option stands here once, with its help."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from typer import Option

OWN: Final = "Options that go with --data"


class Reward(StrEnum):
    """How an answer is compared with the right one."""

    EQUALITY = "equality"
    F1 = "f1"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What `iccache demo` was called with; None where an option was left out. The help of each explains it."""

    data: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help='Your own requests: JSON lines `{"request": …, "answer": …}`; the answer may be left out. Plain or '
            "gzipped; - is standard input.",
        ),
    ] = None
    small: Annotated[str | None, Option(metavar="URL#MODEL", help="Your small model.", rich_help_panel=OWN)] = None
    large: Annotated[str | None, Option(metavar="URL#MODEL", help="Your large model.", rich_help_panel=OWN)] = None
    system: Annotated[
        str | None, Option(metavar="TEXT", help="System message of every request.", rich_help_panel=OWN)
    ] = None
    reward: Annotated[
        Reward | None,
        Option(help="How an answer is compared with the right one. Default: equality.", rich_help_panel=OWN),
    ] = None
    field: Annotated[str, Option(metavar="NAME", help="The field that holds the request.", rich_help_panel=OWN)] = (
        "request"
    )
    answer_field: Annotated[
        str, Option(metavar="NAME", help="The field that holds the right answer.", rich_help_panel=OWN)
    ] = "answer"
    max_tokens: Annotated[
        int,
        Option(
            min=1,
            metavar="N",
            help="Longest answer. A longer one is cut, and is never an example.",
            rich_help_panel=OWN,
        ),
    ] = 512
    requests: Annotated[int | None, Option(metavar="N", help="Stop after so many requests.")] = None
    seed: Annotated[int, Option(metavar="N", help="Seed of the task and of every random draw.")] = 0
    as_json: Annotated[bool, Option("--json", help="Print the result as one JSON object, and nothing else.")] = False
