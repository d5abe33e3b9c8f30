"""A framework's own model as a `Model`: what the models of LangChain and LlamaIndex have in common."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, wait
from contextvars import Context
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeAlias, TypeVar

from pydantic import BaseModel, SecretStr
from typing_extensions import override

from shared_core.errors import ModelFailed
from shared_core.inference import Completion, Model
from shared_core.inference.checks import check_call
from shared_core.sharing import Shared
from shared_core.values import Clock, Message

T = TypeVar("T")

# The frameworks' names for the arguments of `Model.complete`.
_FIELDS: Final = {
    "max_tokens": {"max_tokens", "max_output_tokens", "max_new_tokens", "num_predict"},
    "temperature": {"temperature"},
    "n": {"n"},
    "timeout": {"timeout", "request_timeout", "default_request_timeout"},
}
_SECRET: Final = re.compile(r"key|token|secret|password|authorization", re.IGNORECASE)
_SHORTEST_SECRET: Final = 8  # shorter ones are placeholders, such as "none"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a call asks for; see `Model.complete`."""

    max_tokens: int
    temperature: float
    n: int
    timeout: float


Ask: TypeAlias = Callable[[Sequence[Message], Wanted], Completion]
"""Asks a framework's model once; blocks. Returns from one to ``wanted.n`` answers."""


class FrameworkModel(Shared, Model):
    """A model that is asked through its framework, each call on a new thread.

    A framework's time limit may hold for one try or one read only. So the caller stops waiting at `timeout`, and the
    thread ends when the framework's own limit is reached. The thread starts with an empty context: callbacks, traces
    and scopes of the caller do not reach the call, and it works under a running event loop.

    Args:
        name: Its name in records.
        ask: Asks the model; is called again until there are n answers.
        secrets: Texts that are replaced by *** in errors.
        clock: Monotonic, in seconds.
    """

    because = "it holds the framework's model; build it in each process"

    def __init__(self, name: str, ask: Ask, secrets: Collection[str] = (), clock: Clock = time.perf_counter) -> None:
        self._name = name
        self._ask = ask
        self._secrets = tuple(secrets)
        self._clock = clock

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    @property
    @override
    def name(self) -> str:
        return self._name

    @override
    def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        n: int = 1,
        timeout: float = 60.0,
    ) -> Completion:
        check_call(messages, max_tokens=max_tokens, temperature=temperature, n=n, timeout=timeout)
        begun = self._clock()

        def collect() -> list[Completion]:
            parts: list[Completion] = []
            while (missing := n - sum(len(part.texts) for part in parts)) > 0:
                left = timeout - (self._clock() - begun)
                if left <= 0:
                    raise TimeoutError  # the caller has given up
                part = self._ask(messages, Wanted(max_tokens, temperature, missing, left))
                if not part.texts:
                    raise ValueError("its answer is empty")
                parts.append(part)
            return parts

        asked = _started(collect)
        if not wait((asked,), min(timeout, threading.TIMEOUT_MAX)).done:
            raise ModelFailed(f"{self._name!r} did not answer within {timeout:g} s; give a longer timeout")
        error = asked.exception()
        if error is not None:  # without its cause: a provider may repeat a key, and a traceback would print it
            raise ModelFailed(f"{self._name!r} gave no answer: {type(error).__name__}: {self._shown(error)}")
        return _together(asked.result(), n, self._clock() - begun)

    def _shown(self, error: BaseException) -> str:
        text = str(error)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def own_fields(model: BaseModel, wanted: Wanted, names: Collection[str]) -> dict[str, object]:
    """The fields of `model` to set for a call, with their values.

    A model may refuse an argument that it does not know. It does use a field that it declares.

    Args:
        model: A model of either framework.
        wanted: What a call asks for.
        names: The arguments to look for.
    """
    found: dict[str, object] = {}
    for name in names:
        for field, declared in type(model).model_fields.items():
            if _FIELDS[name] & {field, declared.alias}:
                found[field] = getattr(wanted, name)
    return found


def secrets_of(model: BaseModel) -> frozenset[str]:
    """Keys, tokens and passwords among the fields of a model, and among the headers that it sends."""
    fields = {name: getattr(model, name, None) for name in type(model).model_fields}
    nested = (value.items() for value in fields.values() if isinstance(value, Mapping))
    found = set()
    for name, value in chain(fields.items(), *nested):
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        is_secret = isinstance(value, SecretStr) or _SECRET.search(str(name))
        if is_secret and isinstance(text, str) and len(text) >= _SHORTEST_SECRET:
            found.add(text)
    return frozenset(found)


def _started(call: Callable[[], T]) -> Future[T]:
    """Run `call` on a daemon thread, without the caller's context."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(Context().run(call))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller
            future.set_exception(error)

    threading.Thread(target=run, name="iccache-model", daemon=True).start()
    return future


def _together(parts: Sequence[Completion], n: int, seconds: float) -> Completion:
    """Several completions of one conversation as one; tokens are those of all calls."""
    has_logprobs = all(part.logprobs for part in parts)
    return Completion(
        texts=tuple(text for part in parts for text in part.texts)[:n],
        finish_reasons=tuple(reason for part in parts for reason in part.finish_reasons)[:n],
        prompt_tokens=sum(part.prompt_tokens for part in parts),
        completion_tokens=sum(part.completion_tokens for part in parts),
        cached_tokens=sum(part.cached_tokens for part in parts),
        seconds=seconds,
        logprobs=tuple(values for part in parts for values in part.logprobs)[:n] if has_logprobs else (),
    )
