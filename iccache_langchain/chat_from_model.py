"""`ChatFromModel`: an IC-Cache `Model`, e.g. a transformers model, as a LangChain chat model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NoReturn

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field
from typing_extensions import override

from iccache_langchain.messages import normalised
from iccache_langchain.options import CLIENT, without_client_options
from shared_core.adapters.arguments import check_arguments
from shared_core.adapters.model_call import ModelCall
from shared_core.adapters.threads import on_threads
from shared_core.inference import Completion, Model, check_model


class ChatFromModel(BaseChatModel):
    """A chat model over any `Model`: for an arm that runs in this process, or for your own `Model`.

    ```python
    small = ChatFromModel(HuggingFaceModel("HuggingFaceTB/SmolLM2-135M-Instruct"))
    llm = ICCacheChatModel(arms={"small": small, "large": ChatOpenAI(...)}, reference="large", costs={"small": 0.1})
    ```

    It streams if the model does. It supports text only, without images, tools or structured output. A call may set
    `max_tokens`, `temperature`, `timeout`, `n` and `stop`; other arguments are refused.

    Args:
        model: The model that answers.
        max_tokens: Maximum length of an answer.
        temperature: 0 for the most probable answer.
        timeout: Seconds after which a call fails.
        stop: The answer ends before the first of these texts, and is not streamed.
        fields: `streaming` as in LangChain's own models, and fields of its `BaseChatModel`, such as `tags`.

    Raises:
        ConfigurationError: `model` is not a `Model`, or another argument is unknown or cannot be used.
    """

    model: Model = Field(exclude=True)
    max_tokens: int = Field(ge=1)
    temperature: float = Field(ge=0)
    timeout: float = Field(gt=0)
    stop: list[str] | None
    streaming: bool = False

    @check_arguments(also=CLIENT)
    def __init__(
        self,
        model: Model,
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        timeout: float = 60.0,
        stop: list[str] | None = None,
        **fields: Any,
    ) -> None:
        check_model(model)
        given = {"max_tokens": max_tokens, "temperature": temperature, "timeout": timeout, "stop": stop}
        fields = without_client_options(fields, "the model has its own client; set it on the model")
        super().__init__(model=model, **given, **fields)

    @property
    def model_name(self) -> str:
        """The name of the model."""
        return self.model.name

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        completion = self._call(messages, stop, kwargs).complete(self.model)
        answers = zip(completion.texts, completion.finish_reasons, strict=True)
        return ChatResult(
            generations=[
                ChatGeneration(
                    message=AIMessage(text, response_metadata=self._metadata(reason), usage_metadata=_usage(completion))
                )
                for text, reason in answers
            ]
        )

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Generator[ChatGenerationChunk, None, None]:
        for piece in self._call(messages, stop, kwargs).stream(self.model):
            chunk = self._last_chunk(piece) if isinstance(piece, Completion) else _chunk(piece)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        chunks = self._stream(messages, stop, run_manager.get_sync() if run_manager else None, **kwargs)
        async with aclosing(on_threads(chunks)) as made:  # a reader that stops ends the generation
            async for chunk in made:
                yield chunk

    @override
    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> NoReturn:
        raise NotImplementedError(f"{self.model_name!r} supports neither tools nor structured output")

    @property
    @override
    def _llm_type(self) -> str:
        return "iccache-model"

    @property
    @override
    def _identifying_params(self) -> Mapping[str, Any]:
        return {"model_name": self.model_name, **self._defaults()}

    @override
    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop, **kwargs)
        params["ls_provider"] = "iccache"
        return params

    def _call(self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]) -> ModelCall:
        return ModelCall.read(normalised(messages), {"stop": stop, **kwargs}, self._defaults())

    def _defaults(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("max_tokens", "temperature", "timeout", "stop")}

    def _last_chunk(self, completion: Completion) -> ChatGenerationChunk:
        return ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                response_metadata=self._metadata(completion.finish_reasons[0]),
                usage_metadata=_usage(completion),
                chunk_position="last",
            )
        )

    def _metadata(self, reason: str) -> dict[str, str]:
        return {"model_name": self.model_name, **({"finish_reason": reason} if reason else {})}


def _chunk(text: str) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content=text))


def _usage(completion: Completion) -> UsageMetadata | None:
    """The tokens of all answers together, as in OpenAI's integration; None if the model does not count tokens."""
    read, written = completion.prompt_tokens, completion.completion_tokens
    if not read and not written:
        return None
    cached = InputTokenDetails(cache_read=completion.cached_tokens)
    return UsageMetadata(
        input_tokens=read, output_tokens=written, total_tokens=read + written, input_token_details=cached
    )
