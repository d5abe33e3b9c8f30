"""`iccache estimate`: what the user's own requests promise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def estimate(
    file: Annotated[
        Path,
        Argument(
            metavar="FILE",
            help="JSON lines in the order of arrival, one request a line, plain or gzipped; - is standard input.",
        ),
    ],
    field: Annotated[str, Option(metavar="NAME", help="The field that holds the request.")] = "request",
    embedder: Annotated[
        str | None,
        Option(metavar="MODEL", help="A sentence-transformers model, hub id or folder. Default: all-MiniLM-L6-v2."),
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print the result as one JSON object, and nothing else.")] = False,
) -> None:
    """Say how much of your own traffic has a near neighbour, before anything is set up.

    Each request is compared with the earlier ones only, as it would be in service. A near neighbour is an example from
    which a small model can learn. The IC-Cache paper found a neighbour above 0.8 for 70% of the requests of its
    traces.

    For example:

        iccache estimate requests.jsonl
    """
    from shared_core.cli.estimate_report import run

    run(file, field=field, embedder=embedder, as_json=as_json)
