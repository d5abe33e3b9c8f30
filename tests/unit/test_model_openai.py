"""A model behind an OpenAI-compatible endpoint: what is sent, what is read, and how it fails."""

import pytest

from shared_core.errors import ModelFailed
from shared_core.inference.openai import OpenAIModel
from shared_core.values import Message
from tests.openai_server import Refused, Reply, openai_server

TALK = [Message("system", "Be brief."), Message("user", "heat it")]


@pytest.fixture
def serve():
    servers = []

    def start(answer):
        context = openai_server(answer)
        servers.append(context)
        return context.__enter__()

    yield start
    for context in servers:
        context.__exit__(None, None, None)


def test_an_answer_with_its_reason_and_tokens(serve):
    server = serve(lambda asked: Reply("climate set", finish_reason="length"))
    completion = OpenAIModel(server.url, "small", extra={"top_p": 0.5}).complete(TALK, max_tokens=7, temperature=0.3)
    assert (completion.texts, completion.finish_reasons) == (("climate set",), ("length",))
    assert completion.prompt_tokens > 0 and completion.completion_tokens > 0 and completion.seconds > 0
    (asked,) = server.asked
    assert asked.turns == [("system", "Be brief."), ("user", "heat it")]
    sent = {name: asked.body[name] for name in ("model", "max_tokens", "temperature", "n", "top_p")}
    assert sent == {"model": "small", "max_tokens": 7, "temperature": 0.3, "n": 1, "top_p": 0.5}


def test_a_refusal_names_endpoint_and_mend_and_no_key(serve):
    def refuse(asked):
        raise Refused(400)

    server = serve(refuse)
    model = OpenAIModel(server.url, "small", api_key="secret-key", max_retries=0)
    with pytest.raises(ModelFailed, match="'small' at http.*BadRequestError.*serves this model") as caught:
        model.complete(TALK, max_tokens=7)
    assert "secret-key" not in str(caught.value) + repr(model)


def test_an_endpoint_that_is_away(serve):
    with pytest.raises(ModelFailed, match="APIConnectionError"):
        OpenAIModel("http://127.0.0.1:9/v1", "small", max_retries=0).complete(TALK, max_tokens=7)
