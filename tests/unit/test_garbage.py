"""The garbage collector may close a stream that its reader dropped, and so end a call, in any statement of a thread:
also while that thread counts, looks at the calls in flight, warns, or submits a record."""

import gc
import logging
import threading

from shared_core.lanes import Job, Lanes
from shared_core.router.load import CallsInFlight
from shared_core.telemetry import Counters, RepeatFilter

ROUNDS = 120


class Dropped:
    """Garbage in a cycle, with a stream in it that its reader left: only the collector finds it."""

    def __init__(self, at_close):
        self.itself = self
        self.stream = self._pieces(at_close)
        next(self.stream)

    @staticmethod
    def _pieces(at_close):
        try:
            yield
        finally:
            at_close()


def closed_meanwhile(act, at_close):
    """Call `act` while the collector closes a stream, each time at another of its statements; False if it hangs."""

    def work():
        for number in range(ROUNDS):
            gc.collect()
            Dropped(at_close)
            gc.set_threshold(number % 40 + 1)
            gc.enable()
            act()
            gc.disable()
        gc.collect()

    threshold, was_enabled = gc.get_threshold(), gc.isenabled()
    thread = threading.Thread(target=work, daemon=True)
    gc.disable()
    gc.freeze()  # what the other tests have left need not be looked through each time
    try:
        thread.start()
        thread.join(20)
    finally:
        gc.unfreeze()
        gc.set_threshold(*threshold)
        if was_enabled:
            gc.enable()
    return not thread.is_alive()


def test_while_a_thread_counts():
    counters, names = Counters(), iter(range(10_000))

    def act():
        counters.observe(f"seconds{next(names)}", 1.0)
        counters.count("decided", arm=str(next(names)))
        counters.snapshot()
        counters.timings()
        counters.value("decided")

    def at_close():
        counters.observe("arm.seconds", 1.0)
        counters.count("ended", number=str(next(names)))

    assert closed_meanwhile(act, at_close)
    assert counters["ended"] == counters.timings()["arm.seconds"].count == ROUNDS


def test_while_a_thread_looks_at_the_calls_in_flight():
    calls = CallsInFlight()
    for _ in range(ROUNDS):
        calls.started("left")

    def act():
        for arm in ("small", "large"):
            calls.started(arm)
        calls.snapshot()
        for arm in ("small", "large"):
            calls.ended(arm)

    assert closed_meanwhile(act, lambda: calls.ended("left"))
    assert calls.snapshot() == {}


def test_while_a_thread_warns():
    now, closed = iter(range(100_000)), []
    quiet = RepeatFilter(lambda: next(now) / 7)

    def warn(text):
        return quiet.filter(logging.LogRecord("iccache.x", logging.WARNING, __file__, 1, text, (), None))

    assert closed_meanwhile(lambda: [warn("down"), warn("another")], lambda: closed.append(warn("left")))
    assert len(closed) == ROUNDS


def test_while_a_thread_submits_a_record():
    lanes, recorded = Lanes(Counters(), drain=5), []
    writer = lanes.add("writer", "records")

    def submit(item):
        return writer.submit(Job(writer, recorded.extend, item, size=10))

    assert closed_meanwhile(lambda: [submit("other") for _ in range(3)], lambda: submit("left"))
    assert lanes.flush(5)
    assert recorded.count("left") == ROUNDS
    assert writer.waiting == 0
    lanes.close()
