"""What a foreign exception says never reaches the log, at any level: it may hold a key or a user's request."""

import ast
import asyncio
import logging
import sqlite3
import threading
from pathlib import Path

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel

from iccache_langchain import ICCacheCallbackHandler, ICCacheChatModel
from shared_core.background import Periodic
from shared_core.engine import Engine
from shared_core.error_log import described, log_error
from shared_core.errors import DependencyIsSlow, ScopeIsCold, StoreIsUnusable
from shared_core.failures import STORM_FALLBACKS
from shared_core.lanes import Job, Lanes, Limits
from shared_core.store import open_store
from shared_core.telemetry import Counters
from shared_core.values import Outcome
from tests.unit.engine.world import ARMS, FULL, Words, ask

SECRET = "sk-5ecret"  # noqa: S105
REFUSED = "the embedder at https://user:" + SECRET + "@host refuses 'heat my bedroom'"


def fail(*_, **__):
    raise ConnectionError(REFUSED) from ValueError(REFUSED)


async def fail_later(*_, **__):
    fail()


class FailingWords(Words):
    embed = fail


@pytest.fixture
def log(caplog, capfd, recwarn):
    """Everything that any logger, a thread's death or a warning has said, at every level."""
    caplog.set_level(logging.DEBUG)  # of all loggers, also asyncio's and LangChain's

    def text():
        printed = capfd.readouterr()
        formatted = [logging.Formatter().format(record) for record in caplog.records]  # with exc_info
        return "\n".join([*formatted, printed.out, printed.err, *(str(w.message) for w in recwarn)])

    return text


def engine_with(**wanted):
    arguments = {"store": "memory://", "arms": ARMS, "reference": "large", "embedder": Words(), "settings": FULL}
    return Engine(**({**arguments, "background": False} | wanted))


def failing_embedder():
    engine = engine_with(embedder=FailingWords())
    for n in range(STORM_FALLBACKS + 1):
        engine.decide(ask(f"heat the kitchen {n}"))
    asyncio.run(engine.adecide(ask("heat the bathroom")))
    engine.submit_record(engine.decide(ask("heat it")), Outcome("climate", writer="big"))
    engine.flush(5)
    engine.close()


def failing_store():
    store = open_store("memory://", settings=FULL)
    engine = engine_with(store=store)
    decision = engine.decide(ask("heat the kitchen"))
    store.exact = store.scan = store.write = fail
    engine.lookup(ask("heat the kitchen"))
    engine.decide(ask("heat the kitchen", scope="other"))  # loads the scope
    engine.observe(ask("heat the kitchen"), Outcome("climate", writer="big", payload=b"x"), admit=True)
    engine.submit_record(decision, Outcome("climate", writer="big"))
    engine.flush(0.1)
    for thread in threading.enumerate():
        if thread.name == "iccache-load":
            thread.join(5)
    engine._components().recorder.lanes.close(0)
    engine.close()


def failing_reward(reward):
    engine = engine_with(reward=reward)
    engine.record(engine.decide(ask("heat the kitchen")), Outcome("climate", writer="big"))
    engine.close()


def failing_redact():
    engine = engine_with(redact=fail)
    engine.submit_record(engine.decide(ask("heat the kitchen")), Outcome("climate", writer="big"))
    engine.flush(5)
    engine.close()


def failing_router():
    engine = engine_with()
    engine.warm("default")
    engine._components().router.route = fail
    engine.decide(ask("heat the kitchen"))
    engine.close()


def failing_loop():
    counters, twice = Counters(), threading.Event()

    def step():
        if counters["learn.failed"]:
            twice.set()
        fail()

    loop = Periodic("learn", 0.001, step, counters)
    assert twice.wait(5)
    loop.close()


def failing_lanes():
    lanes = Lanes(Counters(), drain=0.05)
    lane = lanes.add("writer", "records", limits=Limits(jobs=4), is_temporary=lambda error: True)
    for n in range(6):  # nearly full, then full
        lane.submit(Job(lane, fail, n))
    lanes.report()
    lanes.close()


def failing_model():
    class Broken(FakeListChatModel):
        _generate = _agenerate = fail

    arms = {"small": Broken(responses=["x"]), "large": FakeListChatModel(responses=["y"])}
    engine = engine_with(reward=lambda request, answer: 1.0, settings=FULL)
    llm = ICCacheChatModel(arms=arms, reference="large", engine=engine)
    llm.add_examples([("heat the kitchen", "climate")])
    engine.warm("default")
    assert {llm.invoke(f"heat the kitchen {n}").content for n in range(20)} == {"y"}
    assert engine.counters["fallback.arm_failed"]
    llm.query_fn = fail
    llm.invoke([("user", "heat the kitchen"), ("ai", "climate"), ("user", "and the bathroom")])
    engine.close()


def failing_callback():
    handler = ICCacheCallbackHandler(engine=engine_with(arms=(), reference=None))
    handler._requests = type("Broken", (), {"request": fail})()
    FakeListChatModel(responses=["y"]).invoke("heat the kitchen", config={"callbacks": [handler]})
    handler.engine.flush(5)
    handler.engine.close()


KINDS = {
    "embedder": failing_embedder,
    "store": failing_store,
    "reward": lambda: failing_reward(fail),
    "coroutine reward": lambda: failing_reward(fail_later),
    "score": lambda: failing_reward(lambda request, answer: REFUSED),
    "redact": failing_redact,
    "router": failing_router,
    "loop": failing_loop,
    "lanes": failing_lanes,
    "model": failing_model,
    "callback": failing_callback,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_is_logged_without_its_text(kind, log):
    KINDS[kind]()
    said = log()
    assert SECRET not in said and "bedroom" not in said
    assert "IC-Cache" in said


# what is said instead ---------------------------------------------------------------------------------------------


def caught(function):
    try:
        function()
    except Exception as error:
        return error


def test_a_foreign_error_is_described_by_its_class_its_cause_and_its_line():
    line = fail.__code__.co_firstlineno + 1
    assert described(caught(fail)) == f"ConnectionError from ValueError at test_log_without_texts.py:{line}"


def test_codes_of_a_fixed_set_are_named():
    assert described(OSError(28, SECRET)) == "OSError (No space left on device)"
    busy = caught(lambda: sqlite3.connect("/nowhere/at/all"))
    assert described(busy).startswith("OperationalError (SQLITE_CANTOPEN) at ")
    limited = type("RateLimited", (Exception,), {"status_code": 429})(SECRET)
    assert described(limited) == "RateLimited (status 429)"
    silly = type("Silly", (Exception,), {"status_code": property(fail)})(SECRET)
    assert described(silly) == "Silly"


def test_our_own_errors_keep_their_texts_unless_they_may_quote_their_cause():
    for error in (DependencyIsSlow("the store was slow"), ScopeIsCold("loading"), StoreIsUnusable("it is closed")):
        assert described(error) == f"{type(error).__name__}: {error}"
    quoting = StoreIsUnusable(f"it cannot be opened: {SECRET}")
    quoting.__cause__ = OSError(SECRET)
    assert described(quoting) == "StoreIsUnusable from OSError"


def test_a_chain_that_goes_in_a_circle_ends():
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert described(first) == "ValueError from KeyError"


def test_frames_follow_at_debug_only(caplog):
    log, error = logging.getLogger("iccache.test"), caught(fail)
    caplog.set_level(logging.INFO, logger="iccache")
    log_error(log, logging.WARNING, error, "IC-Cache failed")
    assert len(caplog.records) == 1
    caplog.set_level(logging.DEBUG, logger="iccache")
    log_error(log, logging.WARNING, error, "IC-Cache failed")
    frames = caplog.messages[-1].splitlines()
    assert frames[-1].endswith(f"test_log_without_texts.py:{fail.__code__.co_firstlineno + 1} in fail")
    assert caplog.records[-1].funcName == "test_frames_follow_at_debug_only"


METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
PACKAGES = ("iccache_langchain", "iccache_llamaindex", "shared_core")


def logger_calls():
    for package in PACKAGES:
        for path in (Path(__file__).parents[2] / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"log.{name}" for name in METHODS}:
                    yield f"{path.name}:{node.lineno}", node


def test_no_call_of_a_logger_gets_an_exception():
    """`log_error` and `described` do; FeedWasTrimmed holds a fixed text of ours."""
    calls = list(logger_calls())
    assert len(calls) > 10
    found = {
        where.split(":")[0]
        for where, call in calls
        for each in (*call.args, *(keyword.value for keyword in call.keywords))
        if {"error", "exc", "exc_info"} & {node.id for node in ast.walk(each) if isinstance(node, ast.Name)}
        and "described(error)" not in ast.unparse(each)
    } | {where for where, call in calls if "exc_info" in {keyword.arg for keyword in call.keywords}}
    assert found == {"replica.py", "error_log.py"}
