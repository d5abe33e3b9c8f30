"""`LLMFromModel`: an IC-Cache `Model`, e.g. a transformers model, as a LlamaIndex LLM."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.generic_utils import prompt_to_messages
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms import LLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from pydantic import ConfigDict, Field
from typing_extensions import override

from iccache_llamaindex.messages import as_acompletions, as_completion, as_completions, normalised
from shared_core.adapters.arguments import check_arguments
from shared_core.adapters.model_call import ModelCall
from shared_core.adapters.threads import on_threads
from shared_core.errors import CannotBePickled
from shared_core.inference import Completion, Model, check_model


class LLMFromModel(LLM):
    """An LLM over any `Model`: for an arm that runs in this process, or for your own `Model`.

    ```python
    small = LLMFromModel(HuggingFaceModel("HuggingFaceTB/SmolLM2-135M-Instruct"), context_window=8192)
    llm = ICCacheLLM(arms={"small": small, "large": OpenAILike(...)}, reference="large", costs={"small": 0.1})
    ```

    It streams if the model does. It supports text only, without images, tools or structured output. A call may set
    `max_tokens`, `temperature`, `timeout` and `stop`; other arguments are refused.

    Args:
        model: The model that answers.
        max_tokens: Maximum length of an answer.
        temperature: 0 for the most probable answer.
        timeout: Seconds after which a call fails.
        context_window: Maximum tokens of prompt and answer together; LlamaIndex shortens documents to fit.
        fields: Fields of LlamaIndex's `LLM`, such as `system_prompt`.

    Raises:
        ConfigurationError: `model` is not a `Model`, or another argument is unknown or cannot be used.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: Model = Field(exclude=True)
    max_tokens: int = Field(ge=1)
    temperature: float = Field(ge=0)
    timeout: float = Field(gt=0)
    context_window: int = Field(gt=0)

    @check_arguments()
    def __init__(
        self,
        model: Model,
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        timeout: float = 60.0,
        context_window: int = DEFAULT_CONTEXT_WINDOW,
        **fields: Any,
    ) -> None:
        check_model(model)
        given = {"max_tokens": max_tokens, "temperature": temperature, "timeout": timeout}
        super().__init__(model=model, context_window=context_window, **given, **fields)

    @override
    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if "model" not in state["__dict__"]:  # LlamaIndex leaves out what cannot be pickled
            raise CannotBePickled(self, "its model cannot be; build it in each process")
        return state

    @classmethod
    @override
    def class_name(cls) -> str:
        return "LLMFromModel"

    @property
    @override
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=self.context_window,
            num_output=self.max_tokens,
            is_chat_model=True,
            model_name=self.model.name,
        )

    @llm_chat_callback()
    @override
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._chat(messages, kwargs)

    @llm_chat_callback()
    @override
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return await asyncio.to_thread(self._chat, messages, kwargs)

    @llm_chat_callback()
    @override
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        return self._stream_chat(messages, kwargs)

    @llm_chat_callback()
    @override
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        return on_threads(self._stream_chat(messages, kwargs))

    @llm_completion_callback()
    @override
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return as_completion(self._chat(prompt_to_messages(prompt), kwargs))

    @llm_completion_callback()
    @override
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return as_completion(await asyncio.to_thread(self._chat, prompt_to_messages(prompt), kwargs))

    @llm_completion_callback()
    @override
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        return as_completions(self._stream_chat(prompt_to_messages(prompt), kwargs))

    @llm_completion_callback()
    @override
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        return as_acompletions(on_threads(self._stream_chat(prompt_to_messages(prompt), kwargs)))

    def _chat(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> ChatResponse:
        return self._response(self._call(messages, kwargs).complete(self.model))

    def _stream_chat(
        self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]
    ) -> Generator[ChatResponse, None, None]:
        text = ""
        for piece in self._call(messages, kwargs).stream(self.model):
            if isinstance(piece, Completion):
                yield self._response(piece, delta="")
            else:
                text += piece
                yield ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=text), delta=piece)

    def _call(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> ModelCall:
        defaults = {name: getattr(self, name) for name in ("max_tokens", "temperature", "timeout")}
        return ModelCall.read(normalised(messages), kwargs, defaults)

    def _response(self, completion: Completion, delta: str | None = None) -> ChatResponse:
        usage = {"prompt_tokens": completion.prompt_tokens, "completion_tokens": completion.completion_tokens}
        return ChatResponse(
            message=ChatMessage(role=MessageRole.ASSISTANT, content=completion.texts[0]),
            raw={"model": self.model.name, "finish_reason": completion.finish_reasons[0], "usage": usage},
            delta=delta,
        )
