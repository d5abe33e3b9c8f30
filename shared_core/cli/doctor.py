"""`iccache doctor`: what of a store can be read, and a new file with that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from typer import Argument, Exit, Option

from shared_core.cli.output import write
from shared_core.cli.stores import check_shared
from shared_core.errors import ConfigurationError

if TYPE_CHECKING:
    from shared_core.store.protocol import Store
    from shared_core.store.sqlite_doctor import Finding

DAMAGED: Final = 1


def doctor(
    store: Annotated[str, Argument(metavar="URL", help="The pool: `sqlite:///file.db`, `redis://host:port/db`, …")],
    repair: Annotated[
        str | None, Option(metavar="NEW.db", help="SQLite only: a new file for all that can be read.")
    ] = None,
) -> None:
    """Count what of a store can be read, and what cannot. The store stays as it is.

    A damaged store goes on: IC-Cache serves what it can read. But writes to a damaged SQLite file may fail. To mend it,
    stop the processes that use it, save what can be read, and put the new file in its place:

        iccache doctor sqlite:///pool.db --repair mended.db

    In Redis, a value that cannot be read is left out until it expires, or until the next one replaces it. There,
    `--repair` has nothing to do.

    Exit code 1: something cannot be read, and `--repair` was not given. Exit code 2: nothing can be read.
    """
    check_shared(store)
    if store.startswith("sqlite:///"):
        from shared_core.store.address import sqlite_path
        from shared_core.store.sqlite_doctor import examine

        findings = examine(sqlite_path(store), None if repair is None else _new_file(repair))
    elif repair is not None:
        raise ConfigurationError("--repair writes a SQLite file, and this store is none; leave --repair out")
    else:
        from shared_core.settings import Settings
        from shared_core.store import open_store

        opened = open_store(store, settings=Settings())
        try:
            findings = _read(opened)
        finally:
            opened.close()
    for finding in findings:
        lost = f"  {finding.lost:,} values or ranges cannot be read" if finding.lost else ""
        write(f"{finding.readable:>9,} {finding.name}{lost}")
    if repair is not None:
        write(f"{repair} holds what can be read. Stop every process, then move it to the place of the damaged file.")
    elif any(finding.lost for finding in findings):
        raise Exit(DAMAGED)


def _new_file(name: str) -> Path:
    """The path of a new file, which may also be named as a store."""
    from shared_core.store.address import sqlite_path

    path = sqlite_path(name) if name.startswith("sqlite:///") else Path(name).expanduser()
    if not path.parent.is_dir():
        raise ConfigurationError(f"the folder of {path} does not exist; create it first, or name another file")
    return path


def _read(store: Store) -> list[Finding]:
    """Read what an open store lists: exact and waiting answers are found by their keys only."""
    kinds: dict[str, Callable[[Store], int]] = {
        "examples": _examples,
        "decisions": _decisions,
        "ratings": _ratings,
        "learned parts": _parts,
    }
    return [_counted(name, store, count) for name, count in kinds.items()]


def _counted(name: str, store: Store, count: Callable[[Store], int]) -> Finding:
    from shared_core.store.sqlite_doctor import Finding

    before = store.unreadable
    readable = count(store)
    return Finding(name, readable, store.unreadable - before)


def _examples(store: Store) -> int:
    return sum(
        len(store.texts(scope, [row.entry.id for row in rows]))
        for scope in store.scopes()
        for rows in store.scan(scope)
    )


def _decisions(store: Store) -> int:
    return sum(len(records) for scope in store.decision_counts() for records in store.scan_decisions(scope))


def _ratings(store: Store) -> int:
    number = offset = 0
    while entries := store.feedback(offset):
        number, offset = number + len(entries), entries[-1][0]
    return number


def _parts(store: Store) -> int:
    return sum(store.checkpoint(name) is not None for name in store.progress().parts)
