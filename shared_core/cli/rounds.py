"""`iccache log rounds`: what the last rounds of learning did."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from typer import Option

from shared_core.cli.output import write, write_json
from shared_core.cli.stores import check_shared

if TYPE_CHECKING:
    from shared_core.records import PartRound


def rounds(
    store: Annotated[str, Option(metavar="URL", help="The pool: `sqlite:///file.db`, `redis://host:port/db`, …")],
    as_json: Annotated[bool, Option("--json", help="Print one JSON object for each round.")] = False,
) -> None:
    """Show what the last rounds of learning did to each part, the newest first, whichever process learned.

    A part is the router's weights or the statistics of examples. For each, a line says how many entries of the feedback
    log it learned from, how many it skipped and why, the versions before and after, and the time that it took. A part
    that is put aside has failed; it is learned again when its process starts again.

    For example:

        iccache log rounds --store sqlite:///iccache.db
    """
    check_shared(store)
    from shared_core.settings import Settings
    from shared_core.store import open_store

    opened = open_store(store, settings=Settings())
    try:
        found = opened.rounds()
    finally:
        opened.close()
    if as_json:
        for report in found:
            write_json(asdict(report))
        return
    for report in found:
        at = datetime.fromtimestamp(report.at).astimezone().isoformat(" ", "seconds")
        write(f"version {report.version}, {at}: {report.consumed} new entries of the log")
        for part in report.parts:
            write(f"  {line_of(part)}")
    if not found:
        write("nothing was learned yet")


def line_of(part: PartRound) -> str:
    """What a round did to a part."""
    line = f"{part.part}: {part.folded} folded"
    line += "".join(f", {n} skipped ({why})" for why, n in part.skipped.items())
    line += f", version {part.before} → {part.after}" if part.after != part.before else f", still version {part.before}"
    line += f", {part.seconds:.3f} s"
    return line + (f"; put aside: {part.aside}" if part.aside else "")
