"""A model of ours refuses what it cannot take: when it is built, or before it is asked."""

import re
import traceback
from pathlib import Path

import pytest
import torch
from langchain_core.language_models import FakeListChatModel
from llama_index.core.llms import MockLLM

import iccache_langchain
import iccache_llamaindex
from iccache_langchain import ConfigurationError, HuggingFaceModel, Message, OpenAIModel
from shared_core.inference.checks import check_call

ASKED = [Message("user", "How?")]
SECRET = "sk-hunter2"
MODELS = [
    OpenAIModel("http://127.0.0.1:9/v1", "m", max_retries=0),
    HuggingFaceModel("no/such-model"),
    iccache_langchain.as_model(FakeListChatModel(responses=["a"])),
    iccache_llamaindex.as_model(MockLLM()),
]


def refusal(call, *args, **given):
    with pytest.raises(ConfigurationError) as caught:
        call(*args, **given)
    text = "".join(traceback.format_exception(caught.value))
    assert len(text.splitlines()) < 30 and SECRET not in str(caught.value), text
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"base_url": 3}, "base_url is 3; pass an address such as 'http://localhost:8000/v1'"),
        (
            {"base_url": SECRET},
            "base_url does not begin with http:// or https://; pass an address such as",
        ),
        ({"base_url": "localhost:8000/v1"}, "base_url does not begin with http:// or https://; pass an address"),
        ({"model": None}, "model is None; pass the name under which the endpoint serves it"),
        ({"model": " "}, "model is ' '; pass the name under which the endpoint"),
        ({"api_key": None}, "api_key is None; pass the endpoint's key, or leave it out"),
        ({"api_key": ""}, "api_key is ''; pass the endpoint's key, or leave it out"),
        ({"api_key": [SECRET]}, "api_key is a list; pass the endpoint's key, or leave it out"),
        ({"max_retries": "2"}, "max_retries is '2'; pass a whole number, at least 0"),
        ({"max_retries": -1}, "max_retries is -1; pass a whole number, at least 0"),
        ({"extra": [SECRET]}, "extra is a list; pass a dict such as {'top_p': 0.9}"),
    ],
)
def test_an_endpoint_is_checked_when_it_is_named(given, says):
    assert refusal(OpenAIModel, **{"base_url": "http://127.0.0.1:9/v1", "model": "m"} | given).startswith(says)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "HTTPS://user:pw@host/v1?api-version=1"])
def test_an_address_of_http_is_taken(url):
    assert OpenAIModel(url, "m", extra={"top_p": 0.9}).name == "m"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model": 3}, "model is 3; pass a folder, or a hub id"),
        ({"model": ""}, "model is ''; pass a folder, or a hub id"),
        ({"device": "gpuu"}, "device is 'gpuu', which torch does not know; pass such as 'cpu' or 'cuda:0'"),
        ({"device": ["cpu"]}, "device is a list, which torch does not know"),
        ({"dtype": "float99"}, "dtype is 'float99', which torch does not know; pass such as 'bfloat16' or 'float32'"),
        ({"dtype": "nn"}, "dtype is 'nn', which torch does not know"),
        ({"dtype": 3}, "dtype is 3, which torch does not know"),
        ({"seed": "x"}, "seed is 'x'; pass a whole number, at least 0"),
    ],
)
def test_a_model_of_this_process_is_checked_when_it_is_named(given, says):
    assert refusal(HuggingFaceModel, **{"model": "no/such-model"} | given).startswith(says)


@pytest.mark.parametrize("dtype", [None, "auto", "bfloat16", torch.bfloat16])
def test_devices_and_types_of_torch_are_taken(dtype):
    assert HuggingFaceModel(Path("no/such-model"), device="cuda:0", dtype=dtype).name == "such-model"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"messages": []}, "messages must be a list of Message, such as .*; got an empty one$"),
        ({"max_tokens": "7"}, "max_tokens is '7'; pass a whole number, at least 1$"),
        ({"max_tokens": 0}, "max_tokens is 0; pass a whole number, at least 1$"),
        ({"n": 0}, "n is 0; pass a whole number, at least 1$"),
        ({"n": True}, "n is True; pass a whole number, at least 1$"),
        ({"temperature": -1.0}, "temperature is -1.0; pass a number, at least 0$"),
        ({"temperature": float("nan")}, "temperature is nan; pass a number, at least 0$"),
        ({"timeout": 0}, "timeout is 0; pass a number of seconds above 0$"),
        ({"timeout": None}, "timeout is None; pass a number of seconds above 0$"),
    ],
)
def test_a_call_is_checked_before_the_model_is_asked(model, given, says):
    asked = {"messages": ASKED, "max_tokens": 7} | given
    assert re.match(says, refusal(model.complete, asked.pop("messages"), **asked))


def test_a_stream_is_checked_before_the_model_is_asked():
    assert refusal(lambda: list(MODELS[1].stream(ASKED, max_tokens=0))).startswith("max_tokens is 0; pass")


def test_numbers_of_numpy_and_no_time_limit_are_taken():
    tokens = torch.tensor([7]).numpy()[0]
    check_call(tuple(ASKED), max_tokens=tokens, temperature=0, n=1, timeout=float("inf"))
