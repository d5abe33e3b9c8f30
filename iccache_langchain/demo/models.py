"""The chat models of the demo: a file of right answers, an endpoint of the user's, and one that is asked once."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, Final

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from iccache_langchain.demo.texts import shortened
from shared_core.errors import ConfigurationError, ExtraIsMissing
from shared_core.inference import Embedder
from shared_core.prompt import estimate_tokens

TIMEOUT: Final = 120.0  # seconds for one answer of an endpoint
PROBE: Final = "Say yes."


@dataclass(frozen=True, slots=True)
class Models:
    """What a run asks, and what messages call the two models."""

    small: BaseChatModel
    large: BaseChatModel
    embedder: Embedder
    small_name: str
    large_name: str


class AnswerFile(BaseChatModel):
    """The demo's large model: looks the last user turn up among right answers.

    Its token counts are estimates (four bytes a token); there is no tokenizer to ask.
    """

    answers: dict[str, str]

    @property
    def _llm_type(self) -> str:
        return "answer-file"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        del stop, run_manager, kwargs
        asked = str(messages[-1].content)
        if asked not in self.answers:
            raise ConfigurationError(f"the file of right answers has none to {shortened(asked)!r}")
        answer = self.answers[asked]
        read, written = sum(estimate_tokens(str(m.content)) for m in messages), estimate_tokens(answer)
        usage = UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)
        message = AIMessage(answer, usage_metadata=usage, response_metadata={"finish_reason": "stop"})
        return ChatResult(generations=[ChatGeneration(message=message)])


class AskedOnce(BaseChatModel):
    """Another chat model that is asked each question once; a repeated question gets the same answer for nothing.

    The demo compares every answer with the large model's, and must not pay twice where IC-Cache asks it too.
    """

    inner: BaseChatModel
    _given: dict[tuple[tuple[str, str], ...], ChatResult] = PrivateAttr(default_factory=dict)

    @property
    def _llm_type(self) -> str:
        return "asked-once"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        key = tuple((m.type, str(m.content)) for m in messages)
        if key not in self._given:
            self._given[key] = self.inner._generate(messages, stop, run_manager, **kwargs)  # noqa: SLF001  # delegation
        return self._given[key].model_copy(deep=True)


def openai_compatible(url: str, model: str, **options: Any) -> BaseChatModel:
    """A client of the endpoint at `url`, at temperature 0; its key is ``OPENAI_API_KEY``, if that is set.

    Raises:
        ExtraIsMissing: langchain-openai is not installed.
    """
    try:
        from langchain_openai import ChatOpenAI  # an extra
    except ImportError as error:
        raise ExtraIsMissing("langchain-openai", "demo") from error
    key = os.environ.get("OPENAI_API_KEY", "none")
    return ChatOpenAI(base_url=url, model=model, api_key=key, temperature=0, timeout=TIMEOUT, cache=False, **options)


def reachable(address: str, option: str, max_tokens: int) -> BaseChatModel:
    """The model at ``URL#model``, its answers cut at `max_tokens`, after one question of one token to it.

    Raises:
        ConfigurationError: The address is malformed, or nothing answers there; the message names `option`.
    """
    url, _, model = address.partition("#")
    if not url.startswith(("http://", "https://")) or not model:
        raise ConfigurationError(
            f"{option} takes URL#model, such as http://localhost:8000/v1#qwen2.5-3b; {shown(address)!r} is none"
        )
    try:
        openai_compatible(url, model, max_tokens=1, max_retries=0).invoke(PROBE)
    except ExtraIsMissing:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"{option}: {shown(url)} gives no answer as {model!r} ({reason(error)}); is it running, and is this the name "
            "under which it serves the model?"
        ) from error
    return openai_compatible(url, model, max_tokens=max_tokens)


def shown(address: str) -> str:
    """An address as messages may show it: without user, password and query, which may be secrets."""
    return re.sub(r"\?[^#]*", "", re.sub(r"//[^/#]*@", "//", address))


def reason(error: Exception) -> str:
    """Kind and message of a client's error, in one line, shortened, without the key."""
    message = str(error)
    if key := os.environ.get("OPENAI_API_KEY"):
        message = message.replace(key, "…")
    return shortened(f"{type(error).__name__}: {message}")
