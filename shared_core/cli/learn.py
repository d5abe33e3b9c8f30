"""`iccache learn`: the learner as a program, for a cron job or a service."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final
from uuid import uuid4

from typer import Option

from shared_core.cli.output import warn, write, write_json
from shared_core.cli.rounds import line_of
from shared_core.cli.stores import check_shared
from shared_core.errors import ConfigurationError

if TYPE_CHECKING:
    from types import FrameType

    from shared_core.learning.learner import LearnReport
    from shared_core.store.protocol import Store

LONGEST_PAUSE: Final = 86_400.0  # seconds
LOOK: Final = 250  # log entries read in one go to look for the reference


def learn(
    store: Annotated[str, Option(metavar="URL", help="The pool: `sqlite:///file.db`, `redis://host:port/db`, …")],
    reference: Annotated[str, Option(metavar="ARM", help="Name of the reference arm, as your chat model has it.")],
    once: Annotated[bool, Option("--once", help="One round, then stop (for cron). This is the default.")] = False,
    every: Annotated[float | None, Option(metavar="SECONDS", help="Keep going, with pauses of this length.")] = None,
    as_json: Annotated[bool, Option("--json", help="Print one JSON object for each round.")] = False,
) -> None:
    """Learn from the feedback that your services log, and publish what was learned.

    You need it only where your services do not learn by themselves (`background=False`), or to keep that work off
    their machines. Any number of learners may run: one at a time holds the lease. A learner that is killed loses
    nothing and counts nothing twice.

    The setting `quality_target` decides when an answer of another arm counts as good. It comes from
    ICCACHE_QUALITY_TARGET or iccache.toml in this folder, and must be the one of your services.

    For example, once a minute until you stop it:

        iccache learn --store redis://localhost:6379/0 --reference large --every 60
    """
    _check(store, reference, once=once, every=every)
    from shared_core.assembly import trainees
    from shared_core.learning.learner import Learner
    from shared_core.settings import Settings
    from shared_core.store import open_store

    settings = Settings()
    opened = open_store(store, settings=settings)
    try:
        owner = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex}"
        learner = Learner(opened, trainees(reference, settings), time.time, owner)

        def run() -> LearnReport:
            report = learner.run_until_drained()
            opened.trim_decisions()
            return report

        if every is None:
            is_known(opened, reference)
            _show(run(), opened, as_json=as_json)
        else:
            stop = threading.Event()
            _stop_on_signals(stop)
            _keep_going(run, opened, lambda: is_known(opened, reference), every, stop, as_json=as_json)
    finally:
        opened.close()


def _check(url: str, reference: str, *, once: bool, every: float | None) -> None:
    """Refuse options that contradict each other or cannot be used.

    Raises:
        ConfigurationError: See above.
    """
    if once and every is not None:
        raise ConfigurationError("--once and --every contradict each other; give one of them")
    if every is not None and not 0 < every <= LONGEST_PAUSE:  # false for NaN, too
        raise ConfigurationError(
            f"--every takes seconds above 0 and at most {LONGEST_PAUSE:,.0f}, a day; got {every:g}"
        )
    check_shared(url)
    if not reference.strip():
        raise ConfigurationError("--reference is empty; give the name of the reference arm, as your chat model has it")


def is_known(store: Store, reference: str) -> bool:
    """True if the store names `reference` among the arms that were rated; False if it names no arm yet.

    Feedback is used up by learning, so a wrong reference must not come that far.

    Raises:
        ConfigurationError: It names arms, and the reference is not among them.
    """
    from shared_core.assembly import RESERVED
    from shared_core.learning.statistics import PART, rewards_of

    arms = set(rewards_of(store.checkpoint(PART)))
    offset = store.progress().offset
    while reference not in arms and (log := store.feedback(offset, LOOK)):
        decisions = store.decisions(list({feedback.decision_id for _, feedback in log}))
        arms.update(decision.arm for decision in decisions.values())
        offset = log[-1][0]
    named = sorted(arms - RESERVED - {""})
    if named and reference not in arms:
        raise ConfigurationError(
            f"--reference {reference!r} is not an arm of {store.label}, which has feedback on {', '.join(map(repr, named))}; "
            "give the name that your chat model uses. If this is the name, rate some answers of that arm first"
        )
    return bool(named)


def _keep_going(
    run: Callable[[], LearnReport],
    store: Store,
    know_reference: Callable[[], bool],
    every: float,
    stop: threading.Event,
    *,
    as_json: bool,
) -> None:
    is_out = knows = False
    while True:
        try:
            knows = knows or know_reference()
            _show(run(), store, as_json=as_json)
        except (OSError, sqlite3.Error) as error:
            if not is_out:
                warn(f"the store failed, next try in {every:g} s: {error}")
            is_out = True
        else:
            is_out = False
        if stop.wait(every):
            return


def _stop_on_signals(stop: threading.Event) -> None:
    def handler(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _show(report: LearnReport, store: Store, *, as_json: bool) -> None:
    """One line for the call, and one for each part of each round."""
    if as_json:
        write_json(asdict(report))
        return
    if not report.published:
        write(_why_not(store))
        return
    line = f"learned from {report.consumed} rewards, published version {report.version}"
    line += f"; {report.orphans} belonged to decisions that are gone" if report.orphans else ""
    line += f"; {report.unusable} were unusable" if report.unusable else ""
    write(line)
    for learned in report.rounds:
        for part in learned.parts:
            write(f"  {line_of(part)}")


def _why_not(store: Store) -> str:
    """Why a round has published nothing."""
    progress = store.progress()
    if store.feedback(progress.offset, 1):
        aside = [part for last in store.rounds()[:1] for part in last.parts if part.aside]
        if aside:
            return "nothing was learned: " + "; ".join(map(line_of, aside))
        return "another learner is at work; it learns from what waits"
    if progress.version:
        return f"nothing to learn: no feedback since version {progress.version}"
    return "nothing to learn: there is no feedback yet; pass reward= to your chat model, or call record_feedback"
