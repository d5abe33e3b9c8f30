"""What both adapters share: decide before a call, retreat where an arm fails, record after; engines built from arguments."""

import asyncio
import contextvars
import os
import threading
from typing import get_type_hints

import pytest

from shared_core.adapters.parameters import FREE, decision_id, fingerprint_of, form_of
from shared_core.adapters.factory import check_arms, core_arms, example_engine, routing_engine
from shared_core.adapters.options import RoutingOptions, SettingsOptions, read_options, with_knobs
from shared_core.adapters.provenance import finish_reason, is_clean, is_trusted
from shared_core.inference.naming import named_model
from shared_core.adapters.threads import off_loop
from shared_core.adapters.routing import Routing
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError
from shared_core.settings import Settings
from shared_core.values import Arm, Outcome
from tests.unit.engine.world import Words, ask


@pytest.fixture
def engine():
    engine = Engine(
        store="memory://",
        arms=[Arm("small", 0.1), Arm("large", 1.0, uses_examples=False)],
        reference="large",
        embedder=Words(),
        settings=Settings(relevance_quantile=0.0, explore=1.0),
        reward=lambda request, answer: 1.0,
        background=False,
    )
    engine.warm("default")
    yield engine
    engine.close()


class TestDeciding:
    async def test_a_call_that_cannot_be_read_goes_to_the_reference_and_leaves_nothing(self, engine, caplog):
        def unreadable():
            raise TypeError("no such message")

        routing = Routing(engine, "large")
        for decision in (routing.decide(unreadable, "d1"), await routing.adecide(unreadable, "d1")):
            assert (decision.id, decision.arm, decision.fallback) == ("d1", "large", True)
            assert decision.route.reason == "fallback: TypeError"  # clients see it
            engine.record(decision, Outcome("an answer", writer="big"))
        assert engine.counters.value("fallback.unreadable_call", error="TypeError") == 2
        assert "fallback.unreadable_call: TypeError at test_adapters.py:" in caplog.text
        engine.maintain()
        assert engine.decide(ask("an answer"), "d2").selection.considered == 0

    async def test_a_scope_that_cannot_be_used_is_the_callers_mistake(self, engine):
        def misused():
            raise ConfigurationError("scope is None")

        with pytest.raises(ConfigurationError, match="scope is None"):
            Routing(engine, "large").decide(misused)
        with pytest.raises(ConfigurationError, match="scope is None"):
            await Routing(engine, "large").adecide(misused)

    async def test_a_bypassed_call_is_not_stored(self, engine):
        routing, why = Routing(engine, "large"), "it names its own model"
        read = lambda: ask("heat the kitchen")
        for decision in (routing.decide(read, bypass=why), await routing.adecide(read, bypass=why)):
            assert (decision.arm, decision.route.reason) == ("large", why)
            assert not decision.request.store
        assert engine.counters["bypass.not_routed"] == 2

    async def test_a_read_that_may_block_keeps_no_loop_waiting(self, engine):
        threads = []
        read = lambda: threads.append(threading.get_ident()) or ask("heat the kitchen")
        await Routing(engine, "large").adecide(read)
        await Routing(engine, "large").adecide(read, may_block=True)
        assert threads[0] == threading.get_ident() != threads[1]


class TestSelect:
    def test_examples_without_a_choice_of_models(self, engine):
        engine.add_examples([("heat the kitchen", "climate kitchen")], scope="default", task="t")
        engine.maintain()
        decision = engine.select(ask("heat the bathroom"), "d1")
        assert decision.arm == "unrouted"
        assert [e.answer for e in decision.given] == ["climate kitchen"]
        assert decision.route.propensity == 1.0 and decision.route.features == ()

    def test_feedback_on_it_reaches_the_examples_and_no_arms_posterior(self, engine):
        engine.add_examples([("heat the kitchen", "climate kitchen")], scope="default", task="t")
        engine.maintain()
        decision = engine.select(ask("heat the bathroom"), "d1", arm="qwen")
        engine.record(decision, Outcome("climate bathroom", writer="qwen"))
        engine.maintain()
        (row,) = engine._components().store.rows("default", [decision.given[0].id])
        assert row.entry.statistics.helpfulness.value == 1.0
        assert not [name for name in engine._components().store.checkpoint("router").arrays if "qwen" in name]

    def test_it_fails_open(self, engine, caplog):
        class Broken:
            tag = Words.tag

            def embed(self, texts):
                raise ConnectionError("the embedder at sk-SECRET is gone")

        broken = Engine(store="memory://", embedder=Broken(), background=False)
        decision = broken.select(ask("heat the bathroom"))
        assert decision.fallback and not decision.given
        assert decision.route.reason == "fallback: ConnectionError"  # not what the embedder wrote
        assert "SECRET" not in str(decision.provenance())
        assert "SECRET" not in caplog.text
        assert broken.counters.value("fallback", error="ConnectionError") == 1
        broken.close()

    def test_an_engine_without_embedder_selects_nothing(self):
        engine = Engine(store="memory://", background=False)
        assert engine.select(ask("heat the bathroom")).given == ()
        engine.close()

    @pytest.mark.parametrize("name", ["exact", "unrouted"])
    def test_reserved_names_are_refused(self, name):
        with pytest.raises(ConfigurationError, match=name):
            Engine(store="memory://", arms=[Arm(name, 0.1), Arm("large", 1.0)], reference="large")


def given(**options):
    return read_options(options, RoutingOptions)


class TestConstruction:
    def test_a_shared_engine_is_taken_as_it_is(self, engine):
        assert routing_engine(["small", "large"], "large", given(engine=engine, costs=None)) is engine
        assert example_engine(None, given(engine=engine, redact=None)) is engine

    def test_a_shared_engine_brings_what_it_has(self, engine):
        shared = given(engine=engine, store="memory://", costs={"small": 0.1})
        with pytest.raises(ConfigurationError, match="its own costs, store"):
            routing_engine(["small", "large"], "large", shared)
        with pytest.raises(ConfigurationError, match="its own settings"):
            example_engine(None, given(engine=engine, deadline=1.0))
        with pytest.raises(ConfigurationError, match="its own store"):
            example_engine("memory://", given(engine=engine))

    def test_a_shared_engine_must_know_the_arms(self, engine):
        with pytest.raises(ConfigurationError, match="routes between"):
            routing_engine(["tiny", "large"], "large", given(engine=engine))

    def test_a_surface_builds_its_own_engine(self):
        options = given(store="memory://", embedder=Words().embed, costs={"small": 0.2}, background=False, explore=0.3)
        built = routing_engine(["small", "large"], "large", options)
        assert {arm.name: (arm.cost, arm.uses_examples) for arm in built.arms.values()} == {
            "small": (0.2, True),
            "large": (1.0, False),
        }
        assert built.settings.explore == 0.3
        built.close()

    def test_an_arm_may_have_its_own_budget(self):
        arms = core_arms(["small", "large"], "large", {"small": 0.1}, None, {"small": 300})
        assert {arm.name: arm.example_tokens for arm in arms} == {"small": 300, "large": None}

    @pytest.mark.parametrize("budgets", [{"tiny": 1}, {"small": -1}, {"small": True}, {"small": 1.5}, [("small", 1)]])
    def test_a_budget_that_makes_no_sense_is_refused(self, budgets):
        with pytest.raises(ConfigurationError, match="example_budgets"):
            core_arms(["small", "large"], "large", {"small": 0.1}, None, budgets)

    def test_what_cannot_be_routed(self):
        with pytest.raises(ConfigurationError, match="at least two arms"):
            check_arms({"large": "m"}, "large")
        with pytest.raises(ConfigurationError, match="not one of the arms"):
            check_arms({"small": "m", "large": "m"}, "larg")
        with pytest.raises(ConfigurationError, match="costs is missing 'small'"):
            core_arms(["small", "large"], "large", None, None, None)
        with pytest.raises(ConfigurationError, match="deadline"):
            with_knobs(None, {"deadline": -1})

    @pytest.mark.parametrize(
        ("given", "reference", "says"),
        [
            (lambda model: [model, model], lambda model: "large", "arms is a list; pass a dict such as"),
            (lambda model: model, lambda model: "large", "arms is a Model; pass a dict such as"),
            (lambda model: {model: "small", "large": model}, lambda model: "large", "arms has a Model as a name"),
            (
                lambda model: {"small": model, "large": model},
                lambda model: model,
                "reference is a Model; pass the name",
            ),
        ],
    )
    def test_a_message_about_arms_never_shows_a_model(self, given, reference, says):
        class Model:
            def __repr__(self):
                return "Model(key='sk-SECRET')"

        model = Model()
        with pytest.raises(ConfigurationError, match=says) as refused:
            check_arms(given(model), reference(model))
        assert "SECRET" not in str(refused.value)
        for costs in ([model], {model: 0.1}):
            with pytest.raises(ConfigurationError, match="costs") as refused:
                core_arms(["small", "large"], "large", costs, None, None)
            assert "SECRET" not in str(refused.value)

    def test_options_are_split_by_destination(self):
        options = {"scope": "acme", "costs": {"small": 0.1}, "tags": ["a"], "max_examples": 2, "embedder": None}
        read = read_options(options, RoutingOptions)
        assert (read.scope, read.strict_scope, read.task, read.base) == ("acme", False, None, {"tags": ["a"]})
        assert read.engine["costs"] == {"small": 0.1}
        assert read.engine["settings"].max_examples == 2
        assert "embedder" not in read.engine
        with pytest.raises(ConfigurationError, match="scope= has no effect with strict_scope=True; pass only one"):
            read_options({"scope": "acme", "strict_scope": True}, RoutingOptions)

    def test_each_setting_is_an_option_with_the_same_type(self):
        hints = get_type_hints(SettingsOptions)
        assert hints == {name: field.annotation for name, field in Settings.model_fields.items()}

    def test_single_knobs_stand_over_settings(self):
        knobs = with_knobs(Settings(explore=0.3, deadline=1.0), {"deadline": 2.0})
        assert (knobs.explore, knobs.deadline) == (0.3, 2.0)


def test_what_binds_an_answer():
    assert form_of({"temperature": 0.1, "timeout": 3}, free=FREE | {"timeout"}) == ""
    assert form_of({"timeout": 3}) != ""
    assert fingerprint_of({"timeout": 3}) != fingerprint_of({"timeout": 4})


def test_a_run_id_is_a_decision_id_in_each_of_its_spellings():
    from uuid import UUID

    run = UUID("12345678-1234-5678-1234-567812345678")
    assert decision_id(run) == decision_id(str(run)) == decision_id(run.hex) == run.hex
    assert decision_id("ours") == "ours"


@pytest.mark.parametrize(
    ("metadata", "reason", "clean"),
    [
        ({"finish_reason": "stop"}, "stop", True),
        ({"stop_reason": "end_turn"}, "end_turn", True),
        ({"done_reason": "length"}, "length", False),
        ({"finish_reason": None, "status": "completed"}, "completed", True),
        ({"finish_reason": "content_filter"}, "content_filter", False),
        ({}, None, True),
    ],
)
def test_how_an_answer_ended(metadata, reason, clean):
    assert finish_reason(metadata) == reason
    assert is_clean(finish_reason(metadata)) is clean


class TestOffLoop:
    async def test_it_leaves_the_loop_and_takes_the_context_along(self):
        who = contextvars.ContextVar("who")
        who.set("acme")
        thread, seen = await off_loop(lambda: (threading.current_thread(), who.get()))
        assert thread is not threading.current_thread() and seen == "acme"

    async def test_it_does_not_wait_for_the_loops_own_executor(self):
        release = threading.Event()
        loop = asyncio.get_running_loop()
        stuck = [loop.run_in_executor(None, release.wait, 30) for _ in range(64)]
        try:
            assert await asyncio.wait_for(off_loop(lambda: "through"), 10) == "through"
        finally:
            release.set()
            await asyncio.gather(*stuck)

    async def test_what_fails_there_fails_here(self):
        with pytest.raises(ZeroDivisionError):
            await off_loop(lambda: 1 / 0)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    async def test_a_forked_child_has_its_own_threads(self):
        await off_loop(lambda: None)
        child = os.fork()
        if child == 0:
            try:
                asyncio.set_event_loop(None)
                result = []
                runner = threading.Thread(target=lambda: result.append(asyncio.run(off_loop(lambda: 7))))
                runner.start()
                runner.join(10)
                os._exit(0 if result == [7] else 1)
            except BaseException:
                os._exit(2)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize(
    ("writer", "reference", "trusted"),
    [
        ("large", "large", True),
        ("other", "large", False),
        ("", "large", False),
        ("other", None, True),
        ("", None, False),
        ("small", None, False),
        ("small", "small", True),
    ],
)
def test_who_is_trusted(writer, reference, trusted):
    assert is_trusted(writer, reference, never="small") is trusted


def test_a_model_gives_its_name_under_several_keys():
    assert named_model({"model": None, "model_name": "", "deployment_name": "d"}.get) == "d"
    assert named_model({"model": "a", "model_name": "b"}.get) == "a"
    assert named_model({"deployment": "d"}.get) == "d"
    assert named_model({"model": 7}.get) == ""
