"""A framework's model as a `Model`: how many answers, how long, in whose context, and what an error shows."""

import threading
import time
import traceback
from contextvars import ContextVar

import pytest
from pydantic import BaseModel, Field, SecretStr

from shared_core.errors import ModelFailed
from shared_core.inference import Completion, Model, StreamingModel
from shared_core.inference.framework import FrameworkModel, Wanted, own_fields, secrets_of
from shared_core.values import Message

ASKED = [Message("user", "heat it")]


def answering(*texts, logprobs=()):
    """What a framework returns."""
    return Completion(texts, ("stop",) * len(texts), 10, 2 * len(texts), 4, logprobs=logprobs)


def test_answers_that_are_missing_are_asked_for():
    asked = []

    def ask(messages, wanted):
        asked.append(wanted.n)
        return answering("a", "b")

    completion = FrameworkModel("small", ask).complete(ASKED, max_tokens=7, n=5)
    assert asked == [5, 3, 1]
    assert completion.texts == ("a", "b", "a", "b", "a")
    assert completion.finish_reasons == ("stop",) * 5
    assert (completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens) == (30, 12, 12)
    assert completion.logprobs == ()


def test_what_is_wanted_reaches_the_framework_and_is_a_model():
    seen = []

    def ask(messages, wanted):
        seen.append((messages, wanted))
        return answering("a", logprobs=((-0.5, -0.1),))

    model = FrameworkModel("small", ask, clock=lambda: 5.0)
    completion = model.complete(ASKED, max_tokens=7, temperature=0.3, timeout=9.0)
    assert seen == [(ASKED, Wanted(7, 0.3, 1, 9.0))]
    assert completion == Completion(("a",), ("stop",), 10, 2, 4, logprobs=((-0.5, -0.1),))
    assert isinstance(model, Model) and not isinstance(model, StreamingModel)
    assert (model.name, repr(model)) == ("small", "FrameworkModel('small')")


def test_a_call_ends_with_its_timeout_and_asks_no_further():
    over, asked = threading.Event(), []

    def ask(messages, wanted):
        asked.append(wanted.timeout)
        over.wait(20)
        return answering("late")

    begun = time.monotonic()
    with pytest.raises(ModelFailed, match=r"'small' did not answer within 0.2 s; give a longer timeout"):
        FrameworkModel("small", ask).complete(ASKED, max_tokens=7, n=2, timeout=0.2)
    assert 0.2 <= time.monotonic() - begun < 5
    threads = [thread for thread in threading.enumerate() if thread.name == "iccache-model"]
    over.set()
    [thread.join(10) for thread in threads]
    assert len(asked) == 1 and asked[0] <= 0.2
    assert all(thread.daemon for thread in threads)


def test_no_context_of_the_caller_reaches_the_call():
    scope = ContextVar("scope", default="none")
    scope.set("acme")
    model = FrameworkModel("small", lambda *_: answering(scope.get()))
    assert model.complete(ASKED, max_tokens=7, timeout=float("inf")).texts == ("none",)


def test_an_error_names_the_model_and_shows_no_secret():
    key = "-".join(["sk", "12345678"])

    def ask(messages, wanted):
        raise RuntimeError(f"401: {key} is wrong")

    with pytest.raises(ModelFailed, match=r"'small' gave no answer: RuntimeError: 401: \*\*\* is wrong") as caught:
        FrameworkModel("small", ask, {key}).complete(ASKED, max_tokens=7)
    assert key not in "".join(traceback.format_exception(caught.value))


def test_an_empty_answer_is_a_failure():
    with pytest.raises(ModelFailed, match="its answer is empty"):
        FrameworkModel("small", lambda *_: answering()).complete(ASKED, max_tokens=7)


class Integration(BaseModel):
    max_output_tokens: int | None = None
    heat: float = Field(0.5, alias="temperature")
    api_key: SecretStr = SecretStr("secret-in-field")
    hf_token: str = "secret-in-text"
    placeholder_key: str = "none"
    headers: dict = {"Authorization": "secret-in-header", "Accept": "application/json"}


def test_fields_are_found_by_name_and_alias():
    wanted = Wanted(7, 0.3, 2, 9.0)
    assert own_fields(Integration(), wanted, ("max_tokens", "temperature", "n", "timeout")) == {
        "max_output_tokens": 7,
        "heat": 0.3,
    }
    assert own_fields(Integration(), wanted, ("max_tokens",)) == {"max_output_tokens": 7}


def test_keys_are_found_in_fields_and_headers():
    assert secrets_of(Integration()) == {"secret-in-field", "secret-in-text", "secret-in-header"}
