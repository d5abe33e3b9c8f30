"""`iccache learn`: the learner as a program, for a cron job or a service."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from shared_core.assembly import RESERVED
from shared_core.errors import ConfigurationError
from shared_core.learning.learner import Learner
from shared_core.learning.round import resume
from shared_core.settings import read_settings
from shared_core.store import open_store

if TYPE_CHECKING:
    from types import FrameType

    from shared_core.learning.learner import LearnReport
    from shared_core.store.protocol import Store

LONGEST_PAUSE: Final = 86_400.0  # seconds
LOOK: Final = 250  # log entries that are looked through at once for the reference
NO_ARMS: Final = RESERVED | {""}  # what stands for an arm where no model was chosen


def run(url: str, *, reference: str, once: bool, every: float | None, as_json: bool) -> None:
    """Learn until the log is drained, once or again and again until SIGINT or SIGTERM.

    Again and again, an outage of the store ends nothing: one line on stderr says that it began.

    Args:
        url: Names the store.
        reference: Name of the reference arm.
        once: One round; must not come with `every`.
        every: Seconds between rounds, above 0 and at most `LONGEST_PAUSE`; None for one round.
        as_json: A report is one JSON object.

    Raises:
        ConfigurationError: The options contradict each other, `url` names no store that is there and outlives this
            process, or no decision that was rated names the reference.
        StoreIsUnusable: The store cannot be opened.
        OSError: The store cannot be reached at the start.
    """
    if once and every is not None:
        raise ConfigurationError("--once and --every contradict each other; give one of them")
    if every is not None and not 0 < every <= LONGEST_PAUSE:  # false for NaN, too
        raise ConfigurationError(
            f"--every takes seconds above 0 and at most {LONGEST_PAUSE:,.0f}, a day; got {every:g}"
        )
    if url == "memory://":
        raise ConfigurationError(
            "memory:// is another store in every process; name one that is shared, such as sqlite://"
        )
    if not reference.strip():
        raise ConfigurationError("--reference is empty; give the name of the reference arm, as your chat model has it")
    _require_file(url)
    settings = read_settings()
    store = open_store(url, settings=settings)
    try:
        owner = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex}"
        learner = Learner(store, reference, settings, clock=time.time, owner=owner)
        if every is None:
            is_known(store, reference)
            _tell(learner.run_until_drained(), as_json=as_json)
        else:
            stop = threading.Event()
            _stop_on_signals(stop)
            _keep_going(learner, lambda: is_known(store, reference), every, stop, as_json=as_json)
    finally:
        store.close()


def is_known(store: Store, reference: str) -> bool:
    """True if the store names `reference` among the arms that were rated; False if it names none yet.

    Feedback is used up by learning, so a wrong reference must not come that far.

    Raises:
        ConfigurationError: It names arms, and the reference is not among them.
    """
    checkpoint = store.checkpoint()
    arms = set(resume(checkpoint, reference, 0.0)[0].rewards)
    offset = checkpoint.offset
    while reference not in arms and (log := store.feedback(offset, LOOK)):
        decisions = store.decisions(list({feedback.decision_id for _, feedback in log}))
        arms.update(decision.arm for decision in decisions.values())
        offset = log[-1][0]
    named = sorted(arms - NO_ARMS)
    if named and reference not in arms:
        raise ConfigurationError(
            f"--reference {reference!r} is no arm of {store.label}, whose feedback is on {', '.join(map(repr, named))}; "
            "name the reference as your chat model has it. If that is its name, rate some of its answers first"
        )
    return bool(named)


def _require_file(url: str) -> None:
    """Refuse a SQLite file that is not there: opening it would make it, and hide that the path is mistyped."""
    name = url.removeprefix("sqlite:///")
    if name not in (url, "", ":memory:") and not Path(name).exists():
        raise ConfigurationError(f"{url} does not exist; name the file that your services write to")


def _keep_going(
    learner: Learner, know_reference: Callable[[], bool], every: float, stop: threading.Event, *, as_json: bool
) -> None:
    is_out = knows = False
    while True:
        try:
            knows = knows or know_reference()
            report = learner.run_until_drained()
        except (OSError, sqlite3.Error) as error:
            if not is_out:
                _warn(f"the store fails, tried again every {every:g} s: {error}")
            is_out = True
        else:
            is_out = False
            _tell(report, as_json=as_json)
        if stop.wait(every):
            return


def _stop_on_signals(stop: threading.Event) -> None:
    def handler(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _tell(report: LearnReport, *, as_json: bool) -> None:
    """One line a round, at once: services read it from a pipe."""
    if as_json:
        line = json.dumps(asdict(report))
    elif report.published:
        line = f"learned from {report.consumed} rewards, published version {report.version}"
        line += f"; {report.orphans} belonged to decisions that are gone" if report.orphans else ""
        line += f"; {report.unusable} were unusable" if report.unusable else ""
    else:
        line = "nothing to learn (no new feedback, or another learner is at work)"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _warn(message: str) -> None:
    sys.stderr.write(f"iccache: {' '.join(message.split())}\n")
    sys.stderr.flush()
