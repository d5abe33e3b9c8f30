"""The frameworks' own OpenAI clients as a `Model`: what reaches the server, what comes back, and when a call ends."""

import asyncio
import threading
import time

import pytest
from langchain_openai import ChatOpenAI, OpenAI
from llama_index.llms.openai_like import OpenAILike

import iccache_langchain
import iccache_llamaindex
from shared_core.errors import ModelFailed
from shared_core.values import Message
from tests.openai_server import Refused, Reply, openai_server

TALK = [Message("system", "Be brief."), Message("user", "heat it")]
KEY = "-".join(["sk", "0123456789"])
TOKENS = [("climate", -0.25), (" set", -0.5)]


def chat_openai(url, **options):
    return iccache_langchain.as_model(ChatOpenAI(base_url=url, api_key=KEY, model="small", **options))


def openai_like(url, **options):
    llm = OpenAILike(api_base=url, api_key=KEY, model="small", is_chat_model=True, **options)
    return iccache_llamaindex.as_model(llm)


CLIENTS = pytest.mark.parametrize("client", [chat_openai, openai_like])


@pytest.fixture
def server():
    with openai_server() as running:
        yield running


@CLIENTS
def test_an_answer_with_its_reason_tokens_and_logprobs(server, client):
    usage = {"completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
    server.answer = lambda asked: Reply("climate set", finish_reason="length", usage=usage, logprobs=TOKENS)
    model = client(server.url, logprobs=True)
    completion = model.complete(TALK, max_tokens=7, temperature=0.3)
    assert (model.name, completion.texts, completion.finish_reasons) == ("small", ("climate set",), ("length",))
    assert (completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens) == (4, 2, 3)
    assert completion.logprobs == ((-0.25, -0.5),)
    (asked,) = server.asked
    assert asked.turns == [("system", "Be brief."), ("user", "heat it")]
    assert (asked.body.get("max_tokens") or asked.body["max_completion_tokens"]) == 7
    assert asked.body["temperature"] == 0.3


def test_langchain_asks_for_n_answers_at_once_and_for_those_that_are_missing(server):
    assert chat_openai(server.url).complete(TALK, max_tokens=7, n=3).texts == ("Hello, this is a scripted answer.",) * 3
    assert [asked.body["n"] for asked in server.asked] == [3]


def test_langchain_asks_for_one_answer_without_n(server):
    chat_openai(server.url).complete(TALK, max_tokens=7)
    assert server.asked[0].body.get("n") is None


def test_llamaindex_asks_for_n_answers_one_by_one(server):
    texts = iter("abc")
    server.answer = lambda asked: next(texts)
    assert openai_like(server.url).complete(TALK, max_tokens=7, n=3).texts == ("a", "b", "c")


@CLIENTS
def test_a_call_ends_in_time_and_so_does_its_request(server, client):
    over = threading.Event()
    server.answer = lambda asked: "late" if over.wait(30) else ""
    model = client(server.url, max_retries=0)
    begun = time.monotonic()
    with pytest.raises(ModelFailed, match="'small'"):
        model.complete(TALK, max_tokens=7, timeout=0.5)
    assert time.monotonic() - begun < 3
    threads = [thread for thread in threading.enumerate() if thread.name == "iccache-model"]
    [thread.join(10) for thread in threads]
    assert not any(thread.is_alive() for thread in threads)  # the client was given the same time limit
    over.set()


@CLIENTS
def test_a_refusal_names_the_model_and_shows_no_key(server, client):
    def refuse(asked):
        raise Refused(400, f"scripted refusal of {KEY}")

    server.answer = refuse
    with pytest.raises(ModelFailed, match="'small' gave no answer: .*scripted refusal") as caught:
        client(server.url, max_retries=0).complete(TALK, max_tokens=7)
    assert KEY not in str(caught.value)


@CLIENTS
async def test_calls_from_a_loop_and_from_its_threads(server, client):
    model = client(server.url)
    assert model.complete(TALK, max_tokens=7).texts
    answers = await asyncio.gather(*(asyncio.to_thread(model.complete, TALK, max_tokens=7) for _ in range(4)))
    assert {answer.texts for answer in answers} == {("Hello, this is a scripted answer.",)}


def test_completion_models_of_both(server):
    plain = iccache_langchain.as_model(OpenAI(base_url=server.url, api_key=KEY, model="small"))
    like = iccache_llamaindex.as_model(OpenAILike(api_base=server.url, api_key=KEY, model="small"))
    for model in (plain, like):
        completion = model.complete(TALK, max_tokens=7, temperature=0.3)
        assert completion.texts == ("Hello, this is a scripted answer.",)
        assert completion.prompt_tokens > 0
        asked = server.asked[-1]
        assert asked.path == "completions"
        assert (asked.body["max_tokens"], asked.body["temperature"]) == (7, 0.3)
        assert "heat it" in asked.query
