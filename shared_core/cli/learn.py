"""`iccache learn`: the learner as a program, for a cron job or a service (DESIGN.md §4.8)."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING
from uuid import uuid4

from shared_core.errors import SettingIsWrong
from shared_core.learning.learner import Learner
from shared_core.settings import Settings
from shared_core.store import open_store

if TYPE_CHECKING:
    from types import FrameType

    from shared_core.learning.learner import LearnReport


def run(url: str, *, reference: str, once: bool, every: float | None, as_json: bool) -> None:
    """Learn until the log is drained, once or again and again until SIGINT or SIGTERM.

    Raises:
        SettingIsWrong: The options contradict each other, or `url` names no store that outlives this process.
        StoreIsUnusable: The store cannot be opened.
    """
    if once and every is not None:
        raise SettingIsWrong("--once and --every contradict each other; give one of them")
    if every is not None and every <= 0:
        raise SettingIsWrong(f"--every takes seconds above 0; got {every:g}")
    if url == "memory://":
        raise SettingIsWrong("memory:// is another store in every process; name one that is shared, such as sqlite://")
    settings = Settings()
    store = open_store(url, settings=settings)
    try:
        owner = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex}"
        learner = Learner(store, reference, settings, clock=time.time, owner=owner)
        stop = threading.Event()
        if every is not None:
            _stop_on_signals(stop)
        while True:
            _tell(learner.run_until_drained(), as_json=as_json)
            if every is None or stop.wait(every):
                return
    finally:
        store.close()


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
