"""LangChain's models as a `Model`, and the other way."""

import asyncio
import threading

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel, FakeListChatModel, FakeListLLM
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.rate_limiters import BaseRateLimiter
from pydantic import SecretStr, ValidationError

from iccache_langchain import ChatFromModel, ICCacheCallbackHandler, ICCacheChatModel, as_model
from shared_core.errors import ConfigurationError, ModelFailed
from shared_core.values import Message
from tests.embedding import Words
from tests.models import Scripted, ScriptedStream

TALK = [Message("system", "Be brief."), Message("user", "heat it"), Message("assistant", "done"), Message("tool", "21")]


class Strict(BaseChatModel):
    """Takes no argument but LangChain's own, and tells what it was set to."""

    model_name: str = "strict-1"
    max_tokens: int = 100
    temperature: float = 0.7
    api_key: SecretStr = SecretStr("secret-key")

    def _generate(self, messages, stop=None, run_manager=None):
        if messages[-1].text == "fail":
            raise RuntimeError(f"401 for {self.api_key.get_secret_value()}")
        said = f"{self.max_tokens} {self.temperature} {[(m.type, m.text) for m in messages]}"
        message = AIMessage(
            said,
            response_metadata={"finish_reason": "stop", "model_name": "strict-1"},
            usage_metadata={
                "input_tokens": 9,
                "output_tokens": 5,
                "total_tokens": 14,
                "input_token_details": {"cache_read": 3},
            },
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    @property
    def _llm_type(self):
        return "strict"


class Waits(Strict):
    over: threading.Event

    def _generate(self, messages, stop=None, run_manager=None):
        self.over.wait(20)
        return super()._generate(messages)


class Heard(BaseCallbackHandler):
    """Counts the runs that it hears of."""

    def __init__(self):
        self.count = 0

    def on_chat_model_start(self, *_, **__):
        self.count += 1

    on_llm_start = on_chat_model_start


# as a model -----------------------------------------------------------------------------------------------------


def test_what_is_wanted_goes_to_the_fields_that_the_model_has():
    llm = Strict()
    completion = as_model(llm).complete(TALK, max_tokens=7, temperature=0.2, n=2)
    turns = [("system", "Be brief."), ("human", "heat it"), ("ai", "done"), ("tool", "21")]
    assert completion.texts == (f"7 0.2 {turns}",) * 2
    assert completion.finish_reasons == ("stop", "stop")
    assert (completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens) == (18, 10, 6)
    assert completion.seconds > 0
    assert (llm.max_tokens, llm.temperature) == (100, 0.7)


def test_a_model_without_such_fields_answers_as_it_was_built():
    model = as_model(FakeListChatModel(responses=["a", "b", "c"]))
    completion = model.complete(TALK, max_tokens=7, n=3)
    assert completion.texts == ("a", "b", "c")
    assert completion.finish_reasons == ("", "", "")
    assert model.name == "FakeListChatModel"
    assert as_model(FakeListChatModel(responses=["a"]), "judge").name == "judge"


@pytest.mark.parametrize(("responses", "asked"), [(False, [3]), (True, [None] * 3)])
def test_n_answers_are_asked_for_at_once_where_the_api_takes_n(responses, asked):
    seen = []

    class Several(Strict):
        n: int | None = None
        use_responses_api: bool = responses

        def _generate(self, messages, stop=None, run_manager=None):
            seen.append(self.n)
            (generation,) = super()._generate(messages).generations
            return ChatResult(generations=[generation] * (self.n or 1))

    completion = as_model(Several()).complete(TALK, max_tokens=7, n=3)
    assert len(completion.texts) == 3
    assert seen == asked


def test_a_completion_model_reads_the_conversation_as_text():
    assert as_model(FakeListLLM(responses=[" warm"])).complete(TALK[:2], max_tokens=7).texts == ("warm",)


def test_what_is_bound_is_sent_and_counts_before_the_call():
    seen = {}

    class Open(Strict):
        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            seen.update(kwargs, stop=stop)
            return super()._generate(messages)

    as_model(Open().bind(top_p=0.5, stop=["."]).bind(top_p=0.9, temperature=1)).complete(TALK, max_tokens=7)
    assert seen == {"top_p": 0.9, "temperature": 1, "stop": ["."]}


@pytest.mark.parametrize(
    "wrapped", [lambda llm: llm.with_fallbacks([llm]), lambda llm: llm.with_retry(), lambda llm: llm | str]
)
def test_what_is_no_model_is_refused(wrapped):
    with pytest.raises(
        ConfigurationError, match="is not a LangChain chat model or completion model.*pass the model itself"
    ):
        as_model(wrapped(Strict()))


def test_a_router_is_refused():
    arms = {"small": Strict(), "large": Strict()}
    options = {"costs": {"small": 0.1}, "store": "memory://", "embedder": Words(), "background": False}
    with ICCacheChatModelClosed(arms=arms, reference="large", **options) as router:
        for given in (router, router.bind(iccache_scope="acme")):
            with pytest.raises(ConfigurationError, match="is a router, not a single model; pass one of its arms"):
                as_model(given)


class ICCacheChatModelClosed(ICCacheChatModel):
    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def test_an_error_names_the_model_and_shows_no_key():
    with pytest.raises(ModelFailed, match=r"'strict-1' gave no answer: RuntimeError: 401 for \*\*\*"):
        as_model(Strict()).complete([Message("user", "fail")], max_tokens=7)


def test_a_call_ends_with_its_timeout():
    over = threading.Event()
    with pytest.raises(ModelFailed, match="'strict-1' did not answer within 0.1 s"):
        as_model(Waits(over=over)).complete(TALK, max_tokens=7, timeout=0.1)
    over.set()


def test_no_cache_and_no_callback_sees_the_call():
    heard = Heard()
    handler = ICCacheCallbackHandler("memory://", embedder=Words(), reference="strict-1")
    cache = InMemoryCache()
    llm = Strict(callbacks=[heard, handler], cache=True)
    model = as_model(llm)
    set_llm_cache(cache)
    try:
        llm.invoke("heat it")  # is cached, heard and recorded
        assert model.complete([Message("user", "heat it")], max_tokens=100, temperature=0.7).texts
        model.complete([Message("user", "cool it")], max_tokens=7)
        assert handler.flush(10)
        assert heard.count == 1
        assert len(cache._cache) == 1
        assert handler.engine.counters.value("admitted") == 1
    finally:
        set_llm_cache(None)
        handler.close()


def test_an_answer_of_the_global_cache_is_not_served():
    llm, calls = Strict(), []

    class Counted(Strict):
        def _generate(self, messages, stop=None, run_manager=None):
            calls.append(1)
            return super()._generate(messages)

    set_llm_cache(InMemoryCache())
    try:
        llm = Counted(max_tokens=7, temperature=0.0)
        [llm.invoke("heat it") for _ in range(2)]
        assert len(calls) == 1
        [as_model(llm).complete([Message("user", "heat it")], max_tokens=7) for _ in range(2)]
        assert len(calls) == 3
    finally:
        set_llm_cache(None)


def test_a_rate_limiter_is_waited_for():
    class Limiter(BaseRateLimiter):
        count = 0

        def acquire(self, *, blocking=True):
            self.count += blocking
            return True

        async def aacquire(self, *, blocking=True):
            raise AssertionError

    limiter = Limiter()
    as_model(Strict(rate_limiter=limiter)).complete(TALK, max_tokens=7, n=2)
    assert limiter.count == 2


async def test_a_model_that_starts_a_loop_of_its_own_is_asked_from_within_a_loop():
    class Async(Strict):
        def _generate(self, messages, stop=None, run_manager=None):
            return asyncio.run(self._later(messages))

        async def _later(self, messages):
            await asyncio.sleep(0)
            return super()._generate(messages)

    model = as_model(Async())
    assert model.complete(TALK, max_tokens=7).texts
    assert (await asyncio.to_thread(model.complete, TALK, max_tokens=7)).texts


# from a model ---------------------------------------------------------------------------------------------------


def test_a_chat_model_answers_with_the_models_words_reason_and_tokens():
    model = Scripted("warm now")
    answer = ChatFromModel(model=model, max_tokens=9).invoke(
        [("system", "Be brief."), ("user", "heat it")], temperature=0.4, timeout=3
    )
    assert model.asked == [
        (
            (("system", "Be brief."), ("user", "heat it")),
            {"max_tokens": 9, "temperature": 0.4, "n": 1, "timeout": 3},
        )
    ]
    assert answer.text == "warm now"
    assert answer.response_metadata["model_name"] == "scripted"
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata == {
        "input_tokens": 4,
        "output_tokens": 2,
        "total_tokens": 6,
        "input_token_details": {"cache_read": 1},
    }


def test_n_answers_are_n_generations():
    result = ChatFromModel(model=Scripted("a b")).generate([[HumanMessage("x")]], n=3)
    assert [generation.text for generation in result.generations[0]] == ["a b"] * 3


@pytest.mark.parametrize("model", [Scripted("one two three"), ScriptedStream("one two three")])
async def test_a_stream_adds_up_to_the_answer(model):
    chat = ChatFromModel(model=model)
    chunks = [list(chat.stream("x")), [chunk async for chunk in chat.astream("x")]]
    for streamed in chunks:
        words = [chunk.text for chunk in streamed if chunk.text]
        assert words == (["one", " two", " three"] if isinstance(model, ScriptedStream) else ["one two three"])
        whole = sum(streamed[1:], streamed[0])
        assert whole.response_metadata["finish_reason"] == "stop"
        assert whole.response_metadata["model_name"] == "scripted"
        assert whole.usage_metadata["output_tokens"] == 3


async def test_a_stream_that_is_left_ends_the_models():
    model = ScriptedStream("one two three")
    for chunk in ChatFromModel(model=model).stream("x"):
        break
    assert model.left == 1
    stream = ChatFromModel(model=model)._astream([HumanMessage("x")])  # as a router asks it
    await anext(stream)
    await stream.aclose()
    assert model.left == 2


def test_an_answer_is_cut_at_a_stop_text():
    model = ScriptedStream("one two three", reason="length")
    chat = ChatFromModel(model=model, stop=["three"])
    assert chat.invoke("x").text == "one two "
    answer = chat.invoke("x", stop=[" three", " two"])
    assert (answer.text, answer.response_metadata["finish_reason"]) == ("one", "stop")
    assert [chunk.text for chunk in chat.stream("x") if chunk.text] == ["one two "]
    assert chat.invoke("x", stop=["four"]).response_metadata["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("asked", "arguments", "refused"),
    [
        ("x", {"tools": [{}]}, "got tools"),
        ("x", {"response_format": {}, "top_p": 0.5}, "got response_format, top_p"),
        ([HumanMessage([{"type": "image_url", "image_url": {"url": "data:"}}])], {}, "text only; a message of the user"),
        ([AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}]), ToolMessage("1", tool_call_id="1")], {},
         "text only; a message of the assistant"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_do_is_refused(asked, arguments, refused):
    chat = ChatFromModel(model=Scripted("a"))
    with pytest.raises(NotImplementedError, match=refused):
        chat.invoke(asked, **arguments)
    with pytest.raises(NotImplementedError, match=refused):
        list(chat.stream(asked, **arguments))


def test_a_refusal_shows_nothing_of_the_message():
    image = HumanMessage([{"type": "image_url", "image_url": {"url": "data:private"}}])
    with pytest.raises(NotImplementedError, match="has an image, a file or a tool call") as caught:
        ChatFromModel(model=Scripted("a")).invoke([image])
    assert "private" not in str(caught.value)


def test_tools_and_structured_output_are_refused_when_they_are_bound():
    chat = ChatFromModel(model=Scripted("a"))
    with pytest.raises(NotImplementedError, match="'scripted' supports neither tools nor structured output"):
        chat.bind_tools([print])
    with pytest.raises(NotImplementedError, match="supports neither tools"):
        chat.with_structured_output({"title": "x", "type": "object", "properties": {}})


def test_there_and_back_is_the_model_itself():
    model = Scripted("a")
    assert as_model(ChatFromModel(model=model)) is model
    assert as_model(ChatFromModel(model=model), "judge").name == "judge"


def test_it_is_an_arm_whose_answers_become_examples():
    arms = {"small": ChatFromModel(model=ScriptedStream("s")), "large": ChatFromModel(model=ScriptedStream("warm now"))}
    router = ICCacheChatModel(
        arms=arms, reference="large", costs={"small": 0.1}, store="memory://", embedder=Words(), explore=0.0,
        reward=lambda request, answer: 1.0, background=False,
    )  # fmt: skip
    assert [chunk.text for chunk in router.stream("heat the room") if chunk.text] == ["warm", " now"]
    assert router.invoke("cool the house").text == "warm now"
    assert router.flush(10)
    assert router.counters.value("admitted") == 2
    router.close()


def test_an_answer_that_was_cut_by_the_timeout_is_no_example():
    arms = {name: ChatFromModel(model=Scripted("warm", reason="timeout")) for name in ("small", "large")}
    router = ICCacheChatModel(
        arms=arms, reference="large", costs={"small": 0.1}, store="memory://", embedder=Words(), explore=0.0,
        background=False,
    )  # fmt: skip
    router.invoke("heat the room")
    assert router.flush(10)
    assert router.counters.value("admitted") == 0
    router.close()
