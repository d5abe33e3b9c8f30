"""Counters with labels, timings in buckets, loggers below one name, and warnings that do not repeat themselves."""

import importlib
import json
import logging
import pkgutil
import threading

import pytest

import shared_core
from shared_core.telemetry import BUCKETS, MOST_KINDS, MOST_TEXTS, Counters, RepeatFilter, get_logger


def test_labels_are_counted_separately_and_summed():
    counters = Counters()
    counters.count("decided", arm="small")
    counters.count("decided", 2, arm="large")
    counters.count("arm.failed", arm="small", error="OSError")
    counters.count("arm.failed", error="OSError", arm="large")
    assert counters["decided"] == 3
    assert counters.value("decided", arm="large") == 2
    assert counters.value("arm.failed", error="OSError") == 2
    assert counters.value("arm.failed", error="OSError", arm="small") == 1
    assert counters.value("arm.failed", error="KeyError") == counters["never"] == 0
    assert json.loads(json.dumps(counters.snapshot()))["decided{arm=large}"] == 2


def test_a_timing_keeps_count_sum_and_buckets():
    counters = Counters()
    for seconds in (0.0005, BUCKETS[0], 0.02, 1e9):
        counters.observe("arm.seconds", seconds, arm="small")
    ((name, timing),) = counters.timings().items()
    assert name == "arm.seconds{arm=small}"
    assert (timing.count, timing.seconds) == (4, pytest.approx(1e9))
    assert timing.buckets == (2, 0, 0, 1, *[0] * (len(BUCKETS) - 4), 1)


def test_nothing_is_lost_between_threads():
    counters = Counters()

    def work():
        for _ in range(2000):
            counters.count("x", arm="a")
            counters.observe("y", 0.1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters["x"] == counters.timings()["y"].count == 8000


def test_every_logger_stands_below_iccache():
    pytest.importorskip("langchain")
    import iccache_langchain
    import iccache_llamaindex

    for package in (shared_core, iccache_langchain, iccache_llamaindex):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
    ours = [name for name in logging.root.manager.loggerDict if name.startswith(("shared_core", "iccache_"))]
    assert ours == []
    assert "iccache.router" in logging.root.manager.loggerDict


def record(text, level=logging.WARNING, *details, logger="iccache.x"):
    return logging.LogRecord(logger, level, __file__, 1, text, details, None)


def test_a_repeated_warning_is_dropped_for_a_second_and_then_states_how_often():
    now = [100.0]
    quiet = RepeatFilter(lambda: now[0])
    assert quiet.filter(record("down"))
    assert not quiet.filter(record("down"))
    assert quiet.filter(record("another"))
    assert quiet.filter(record("down", logging.DEBUG))
    now[0] += 0.5
    assert not quiet.filter(record("down"))
    now[0] += 0.6
    again = record("down")
    assert quiet.filter(again)
    assert again.getMessage() == "down (2 like it were not logged)"
    now[0] += 1.0
    once_more = record("down")
    assert quiet.filter(once_more)
    assert once_more.getMessage() == "down"


def test_a_detail_that_changes_each_time_does_not_make_a_warning_another_one():
    now = [100.0]
    quiet = RepeatFilter(lambda: now[0])
    addresses = range(100)
    passed = [quiet.filter(record("%s is down", logging.WARNING, address)) for address in addresses]
    assert passed == [True] * MOST_TEXTS + [False] * (len(addresses) - MOST_TEXTS)
    assert quiet.filter(record("%s is full", logging.WARNING, 1)), "another kind"
    assert quiet.filter(record("%s is down", logging.WARNING, 1, logger="iccache.y")), "another part"
    now[0] += 1.0
    again = record("%s is down", logging.WARNING, "the last")
    assert quiet.filter(again)
    assert again.getMessage() == f"the last is down ({len(addresses) - MOST_TEXTS} like it were not logged)"


def test_what_is_remembered_of_warnings_is_bounded():
    quiet = RepeatFilter(lambda: 100.0)
    for number in range(3 * MOST_KINDS):
        for detail in range(2 * MOST_TEXTS):
            quiet.filter(record(f"kind {number}: %s", logging.WARNING, detail))
    assert len(quiet._kinds) <= MOST_KINDS
    assert {len(kind.logged) for kind in quiet._kinds.values()} == {MOST_TEXTS}


def test_our_loggers_do_not_repeat_themselves(caplog):
    log = get_logger("test")
    for _ in range(5):
        log.warning("the store is %s", "down")
    assert [r.getMessage() for r in caplog.records] == ["the store is down"]
    logging.getLogger("iccache").setLevel(logging.CRITICAL)
    try:
        log.warning("silenced")
    finally:
        logging.getLogger("iccache").setLevel(logging.NOTSET)
    assert "silenced" not in caplog.text
