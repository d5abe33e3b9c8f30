"""`iccache log export`: the decision log as a file, for analysis elsewhere."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, get_args, get_origin, get_type_hints

import typer
from typer import Argument, Option

from shared_core.cli.flags import Command, Group
from shared_core.cli.stores import check_shared
from shared_core.errors import ConfigurationError, ExtraIsMissing

GROUP: Final = 1000  # rows of one group of a Parquet file
STANDARD_OUTPUT: Final = Path("-")

Row = dict[str, Any]
Writer = Callable[[BinaryIO, Iterable[Row], bool], None]

app = typer.Typer(
    cls=Group, no_args_is_help=True, rich_markup_mode="markdown", help="The log of decisions and their feedback."
)


@app.callback()
def log() -> None:
    """The log of decisions and their feedback."""


@app.command(cls=Command)
def export(
    file: Annotated[
        Path,
        Argument(
            metavar="FILE", help="A new file: Parquet if it ends in .parquet, else JSON lines. - is standard output."
        ),
    ],
    store: Annotated[str, Option(metavar="URL", help="The pool: `sqlite:///file.db`, `redis://host:port/db`, …")],
    scope: Annotated[str | None, Option(metavar="NAME", help="Only this scope. Default: all of them.")] = None,
    vectors: Annotated[
        bool, Option("--vectors/--no-vectors", help="Write the vectors of requests, from which texts can be guessed.")
    ] = False,
) -> None:
    """Write every decision with its feedback to a file, one decision a line or row.

    A decision holds what IC-Cache knew when it chose a model, and how the call ended: each model's expected reward and
    probability, the candidates with their similarity and usefulness, tokens, seconds and costs. It never holds texts.
    Scopes, tasks and the names of models and raters are in it.

    For example:

        iccache log export --store sqlite:///iccache.db decisions.jsonl
    """
    check_shared(store)
    writer = _parquet() if file.suffix == ".parquet" else _write_lines
    from shared_core.learning.log import rows
    from shared_core.settings import Settings
    from shared_core.store import open_store

    opened = open_store(store, settings=Settings())
    try:
        counts = opened.decision_counts()
        if scope is not None and scope not in counts:
            raise ConfigurationError(f"{store} holds no decisions of the scope {scope!r}; leave --scope out for all")
        scopes = [scope] if scope is not None else list(counts)
        with _opened(file) as output:
            found = _counted(rows(opened, scopes, vectors=vectors), sum(counts[name] for name in scopes))
            writer(output, found, vectors)
    finally:
        opened.close()


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """The output. A new file is readable for its owner only, and deleted if it cannot be completed."""
    if file == STANDARD_OUTPUT:
        yield sys.stdout.buffer
        return
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError as error:
        raise ConfigurationError(f"{file} exists; name a new file, or delete it first") from error
    try:
        with os.fdopen(descriptor, "wb") as output:
            yield output
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def _counted(found: Iterable[Row], total: int) -> Iterator[Row]:
    """The rows, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("decisions", total=total)
        for row in found:
            yield row
            progress.advance(task)


def _write_lines(output: BinaryIO, found: Iterable[Row], _vectors: bool) -> None:
    output.writelines(json.dumps(row).encode() + b"\n" for row in found)


def _parquet() -> Writer:
    """Writes Parquet.

    Raises:
        ExtraIsMissing: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ExtraIsMissing("pyarrow", "parquet") from error

    def write_groups(output: BinaryIO, found: Iterable[Row], vectors: bool) -> None:
        schema = _schema(pa, vectors=vectors)
        remaining = iter(found)
        with parquet.ParquetWriter(output, schema) as writer:
            while group := list(islice(remaining, GROUP)):
                for row in group:
                    row["surface"] = list(row["surface"].items())  # as Arrow takes a map
                writer.write_table(pa.Table.from_pylist(group, schema))

    return write_groups


def _schema(pa: Any, *, vectors: bool) -> Any:
    """The columns of the rows of `learning.log`."""
    from shared_core.learning.log import LEFT_OUT
    from shared_core.records import DecisionRecord, Feedback

    columns = [(name, kind) for name, kind in _columns(pa, DecisionRecord) if name not in LEFT_OUT]
    ratings = [(name, kind) for name, kind in _columns(pa, Feedback) if name != "decision_id"]
    columns.append(("feedback", pa.list_(pa.struct(ratings))))
    return pa.schema([*columns, ("vector", pa.list_(pa.float32()))] if vectors else columns)


def _columns(pa: Any, kind: Any) -> list[tuple[str, Any]]:
    hints = get_type_hints(kind)
    return [(field.name, _arrow_type(pa, hints[field.name])) for field in fields(kind) if field.name != "vector"]


def _arrow_type(pa: Any, kind: Any) -> Any:
    """Arrow's type of the type of a field."""
    if is_dataclass(kind):
        return pa.struct(_columns(pa, kind))
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        return pa.list_(_arrow_type(pa, arguments[0]))
    if origin is dict:
        return pa.map_(*(_arrow_type(pa, argument) for argument in arguments))
    simple = {float: pa.float64(), int: pa.int64(), bool: pa.bool_()}
    return simple.get(kind, pa.string())  # what else there is are texts, some of a few values
