"""LlamaIndex's LLMs as a `Model`, and the other way."""

import asyncio
import gc
import threading

import pytest
from llama_index.core.base.llms.types import ChatMessage, CompletionResponse, ImageBlock, LLMMetadata, TextBlock
from llama_index.core.base.response.schema import Response
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.synthesis import SynthesizeEndEvent, SynthesizeStartEvent
from llama_index.core.llms import CustomLLM, MockLLM
from llama_index.core.llms.callbacks import llm_completion_callback

from iccache_llamaindex import ICCacheEventHandler, ICCacheLLM, LLMFromModel, as_model, events

from shared_core.errors import ConfigurationError, ModelFailed
from shared_core.values import Message
from tests.embedding import Words
from tests.models import Scripted, ScriptedStream

TALK = [Message("system", "Be brief."), Message("user", "heat it")]


class Strict(CustomLLM):
    """A completion LLM that takes no argument but LlamaIndex's own, and tells what it was set to."""

    max_tokens: int = 100
    temperature: float = 0.7
    api_key: str = "secret-key"

    @property
    def metadata(self):
        return LLMMetadata(model_name="strict-1")

    @llm_completion_callback()
    def complete(self, prompt, formatted=False):
        if "fail" in prompt:
            raise RuntimeError(f"401 for {self.api_key}")
        return CompletionResponse(
            text=f"{self.max_tokens} {self.temperature} {prompt}",
            raw={
                "choices": [{"finish_reason": "stop"}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3}},
            },
        )

    def stream_complete(self, prompt, formatted=False):
        raise AssertionError


def test_what_is_wanted_goes_to_the_fields_that_the_llm_has():
    llm = Strict()
    completion = as_model(llm).complete(TALK, max_tokens=7, temperature=0.2, n=2)
    assert completion.texts == ("7 0.2 system: Be brief.\nuser: heat it\nassistant: ",) * 2
    assert completion.finish_reasons == ("stop", "stop")
    assert (completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens) == (18, 10, 6)
    assert (llm.max_tokens, llm.temperature) == (100, 0.7)
    assert (as_model(llm).name, as_model(llm, "judge").name) == ("strict-1", "judge")


def test_an_llm_without_usage_and_reason():
    completion = as_model(MockLLM()).complete(TALK, max_tokens=3)
    assert completion.texts == ("text text text",)
    assert (completion.finish_reasons, completion.prompt_tokens, completion.logprobs) == (("",), 0, ())
    assert as_model(MockLLM()).name == "MockLLM"


def test_an_error_names_the_model_and_shows_no_key():
    with pytest.raises(ModelFailed, match=r"'strict-1' gave no answer: RuntimeError: 401 for \*\*\*"):
        as_model(Strict()).complete([Message("user", "fail")], max_tokens=7)


def test_a_call_ends_with_its_timeout():
    over = threading.Event()

    class Waits(Strict):
        def complete(self, prompt, formatted=False):
            over.wait(20)
            return CompletionResponse(text="late")

    with pytest.raises(ModelFailed, match="'strict-1' did not answer within 0.1 s"):
        as_model(Waits()).complete(TALK, max_tokens=7, timeout=0.1)
    over.set()


def test_the_callback_manager_does_not_see_the_call():
    debug = LlamaDebugHandler(print_trace_on_end=False)
    llm = Strict(callback_manager=CallbackManager([debug]))
    llm.complete("heat it")
    assert len(debug.get_llm_inputs_outputs()) == 1
    as_model(llm).complete(TALK, max_tokens=7)
    assert len(debug.get_llm_inputs_outputs()) == 1
    assert llm.callback_manager.handlers == [debug]


def test_no_answer_under_way_takes_the_call_for_its_own():
    handler = ICCacheEventHandler("memory://", embedder=Words())
    dispatcher = get_dispatcher()
    dispatcher.add_event_handler(handler)
    try:
        handler.handle(SynthesizeStartEvent(query="heat it"))
        as_model(Strict()).complete(TALK, max_tokens=7)
        assert events._current.get().last is None
        Strict().complete("heat it")
        assert events._current.get().last.text == "100 0.7 heat it"
    finally:
        handler.handle(SynthesizeEndEvent(query="heat it", response=Response("warm")))
        dispatcher.event_handlers.remove(handler)
        handler.close()


def test_what_is_no_llm_is_refused():
    with pytest.raises(ConfigurationError, match="a str is not a LlamaIndex LLM"):
        as_model("gpt-4")
    router = ICCacheLLM(
        arms={"small": Strict(), "large": Strict()}, reference="large", costs={"small": 0.1}, store="memory://",
        embedder=Words(), background=False,
    )  # fmt: skip
    for given in (router, router.bind(iccache_scope="acme")):
        with pytest.raises(ConfigurationError, match="ICCacheLLM is a router.*pass one of its arms"):
            as_model(given)
    router.close()


async def test_an_llm_that_starts_a_loop_of_its_own_is_asked_from_within_a_loop():
    class Async(Strict):
        def complete(self, prompt, formatted=False):
            asyncio.run(asyncio.sleep(0))
            return CompletionResponse(text="warm")

    model = as_model(Async())
    assert model.complete(TALK, max_tokens=7).texts == ("warm",)
    assert (await asyncio.to_thread(model.complete, TALK, max_tokens=7)).texts == ("warm",)


# from a model ---------------------------------------------------------------------------------------------------

ASKED = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="heat it")]


async def test_an_llm_answers_with_the_models_words_reason_and_tokens():
    model = Scripted("warm now")
    llm = LLMFromModel(model=model, max_tokens=9)
    answers = [llm.chat(ASKED, temperature=0.4), await llm.achat(ASKED, timeout=3)]
    for answer in answers:
        assert answer.message.content == "warm now"
        assert answer.raw == {
            "model": "scripted",
            "finish_reason": "stop",
            "usage": {"prompt_tokens": 4, "completion_tokens": 2},
        }
    turns = (("system", "Be brief."), ("user", "heat it"))
    assert model.asked == [
        (turns, {"max_tokens": 9, "temperature": 0.4, "n": 1, "timeout": 60.0}),
        (turns, {"max_tokens": 9, "temperature": 0.0, "n": 1, "timeout": 3}),
    ]
    assert (llm.complete("heat it").text, (await llm.acomplete("heat it")).text) == ("warm now", "warm now")
    assert llm.metadata.is_chat_model and llm.metadata.model_name == "scripted"


@pytest.mark.parametrize("model", [Scripted("one two three"), ScriptedStream("one two three")])
async def test_a_stream_adds_up_to_the_answer(model):
    llm = LLMFromModel(model=model)
    chats = [list(llm.stream_chat(ASKED)), [piece async for piece in await llm.astream_chat(ASKED)]]
    texts = [list(llm.stream_complete("x")), [piece async for piece in await llm.astream_complete("x")]]
    for pieces in chats + texts:
        deltas = [piece.delta for piece in pieces if piece.delta]
        assert deltas == (["one", " two", " three"] if isinstance(model, ScriptedStream) else ["one two three"])
        last = pieces[-1]
        assert (last.message.content if pieces in chats else last.text) == "one two three"
        assert last.raw["finish_reason"] == "stop" and last.raw["usage"]["completion_tokens"] == 3


async def test_a_stream_that_is_left_ends_the_models():
    model = ScriptedStream("one two three")
    llm = LLMFromModel(model=model)
    stream = llm.stream_chat(ASKED)
    next(stream)
    stream.close()
    assert model.left == 1
    for asked in (llm.astream_chat(ASKED), llm.astream_complete("x")):
        stream = await asked
        await anext(stream)
        await stream.aclose()
        del stream
        gc.collect()
        for _ in range(5):  # LlamaIndex's own wrapper leaves the closing to the event loop
            await asyncio.sleep(0)
    assert model.left == 3


def test_an_answer_is_cut_at_a_stop_text():
    llm = LLMFromModel(model=ScriptedStream("one two three"))
    assert llm.complete("x", stop=["three", " two"]).text == "one"
    assert [piece.delta for piece in llm.stream_complete("x", stop=" two")] == ["one", ""]


@pytest.mark.parametrize(
    ("asked", "arguments", "refused"),
    [
        (ASKED, {"tools": [{}], "top_p": 0.5}, "got tools, top_p"),
        (
            [ChatMessage(role="user", blocks=[TextBlock(text="what?"), ImageBlock(url="http://x/y.png")])],
            {},
            "text only",
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused(asked, arguments, refused):
    llm = LLMFromModel(model=Scripted("a"))
    with pytest.raises(NotImplementedError, match=refused):
        llm.chat(asked, **arguments)
    with pytest.raises(NotImplementedError, match=refused):
        list(llm.stream_chat(asked, **arguments))


def test_there_and_back_is_the_model_itself_and_is_not_serialised():
    model = Scripted("a")
    llm = LLMFromModel(model=model)
    assert as_model(llm) is model
    assert as_model(llm, "judge").name == "judge"
    assert "model" not in llm.to_dict() and llm.to_dict()["class_name"] == "LLMFromModel"


async def test_it_is_an_arm_whose_answers_become_examples():
    arms = {"small": LLMFromModel(model=ScriptedStream("s")), "large": LLMFromModel(model=ScriptedStream("warm now"))}
    router = ICCacheLLM(
        arms=arms, reference="large", costs={"small": 0.1}, store="memory://", embedder=Words(), explore=0.0,
        background=False,
    )  # fmt: skip
    assert [piece.delta for piece in router.stream_complete("heat the room") if piece.delta] == ["warm", " now"]
    assert (await router.achat([ChatMessage(role="user", content="cool the house")])).message.content == "warm now"
    assert router.flush(10)
    assert router.counters.value("admitted") == 2
    router.close()
