"""`few_shot_prompt`: a query engine's prompt, with the chosen examples as user and assistant turns.

The engine's `ICCachePostprocessor` chooses the examples once per query, off the event loop. LlamaIndex formats a prompt
several times, first to measure it; the examples are the same each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.generic_utils import messages_to_prompt as default_messages_to_prompt
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.prompts.default_prompt_selectors import DEFAULT_TEXT_QA_PROMPT_SEL
from pydantic import SerializeAsAny

from iccache_llamaindex.handover import Chooser, Handover, current
from iccache_llamaindex.postprocessor import ICCachePostprocessor
from shared_core.errors import ConfigurationError, kind_of
from shared_core.prompt import as_text
from shared_core.telemetry import get_logger
from shared_core.values import Message

log = get_logger("llamaindex")

EXAMPLES_VARIABLE: Final = "few_shot_examples"  # the template variable, as LlamaIndex's own few-shot prompts call it
_LEADING: Final = frozenset({MessageRole.SYSTEM, MessageRole.DEVELOPER})

Choose: TypeAlias = Callable[..., Sequence[ChatMessage]]


def few_shot_prompt(
    template: BasePromptTemplate | str | None = None,
    *,
    examples: ICCachePostprocessor | None = None,
    question: str = "query_str",
) -> BasePromptTemplate:
    """A prompt with the examples that the engine's postprocessor chose (``show="turns"``).

    ```python
    examples = ICCachePostprocessor("sqlite:///iccache.db", show="turns")
    engine = index.as_query_engine(
        llm=llm, node_postprocessors=[examples], text_qa_template=few_shot_prompt(examples=examples)
    )
    ```

    If the template has the variable ``{few_shot_examples}``, the examples replace it as one fenced text. Chat engines
    need this (``context_template=``, ``context_prompt=``), because they keep only the text of a template. In every
    other template the examples are turns after the system messages.

    Args:
        template: The prompt to extend (it is copied); by default LlamaIndex's prompt for question answering.
        examples: Chooses examples where no postprocessor ran (``llm.predict``); not on an event loop.
        question: The template variable that holds the question.

    Raises:
        ConfigurationError: The template has no such variable, or an argument is of another kind.
    """
    _check_kinds(template, examples)
    template = PromptTemplate(template) if isinstance(template, str) else template or DEFAULT_TEXT_QA_PROMPT_SEL
    chooser = examples.chooser if examples else None
    if isinstance(template, PromptTemplate) and EXAMPLES_VARIABLE in template.template_vars:
        mappings = {**(template.function_mappings or {}), EXAMPLES_VARIABLE: _text_for(chooser, question)}
        return template.model_copy(update={"function_mappings": mappings})
    if question not in {*template.template_vars, *(template.template_var_mappings or {})}:
        raise ConfigurationError(
            f"the template has no variable {question!r}, only {template.template_vars}; name the variable that holds "
            "the question: few_shot_prompt(template, question=…)"
        )
    return FewShotPrompt(template, _turns_for(chooser, question))


def _check_kinds(template: object, examples: object) -> None:
    if not isinstance(template, BasePromptTemplate | str | None):
        mend = (
            "it by name: few_shot_prompt(examples=…)" if isinstance(template, ICCachePostprocessor) else "one of these"
        )
        raise ConfigurationError(f"the template is {kind_of(template)}, neither a prompt nor a text; pass {mend}")
    if not isinstance(examples, ICCachePostprocessor | None):
        raise ConfigurationError(f"examples is {kind_of(examples)}; pass the engine's ICCachePostprocessor")


class FewShotPrompt(BasePromptTemplate):  # type: ignore[no-redef]  # the field `kwargs`, as in LlamaIndex itself
    """Wraps a template, and adds user and assistant turns after its system messages.

    Args:
        template: The template; its format, variables and output parser stay as they are.
        choose: Returns the turns for the prompt's variables.
    """

    template: SerializeAsAny[BasePromptTemplate]

    def __init__(self, template: BasePromptTemplate, choose: Choose) -> None:
        super().__init__(
            template=template,
            metadata=template.metadata,
            template_vars=template.template_vars,
            kwargs=template.kwargs,
            output_parser=template.output_parser,
            function_mappings={EXAMPLES_VARIABLE: choose},
        )

    def partial_format(self, **kwargs: Any) -> FewShotPrompt:
        """The prompt with some variables filled in. The question fixes the turns, because a streamed answer may be
        requested later by another task."""
        turns = self._turns(kwargs)
        return FewShotPrompt(self.template.partial_format(**kwargs), _constant(turns) if turns else self._choose)

    def format_messages(self, llm: BaseLLM | None = None, **kwargs: Any) -> list[ChatMessage]:
        """The template's messages, with the examples after the system messages."""
        messages = self.template.format_messages(llm=llm, **kwargs)
        turns = self._turns(kwargs)
        start = next((i for i, m in enumerate(messages) if m.role not in _LEADING), len(messages))
        return [*messages[:start], *turns, *messages[start:]]

    def format(
        self,
        llm: BaseLLM | None = None,
        messages_to_prompt: Callable[[Sequence[ChatMessage]], str] | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt of a completion model: the template's own text, or with examples all turns as text."""
        if not self._turns(kwargs):
            return self.template.format(llm=llm, messages_to_prompt=messages_to_prompt, **kwargs)
        return (messages_to_prompt or default_messages_to_prompt)(self.format_messages(llm=llm, **kwargs))

    def get_template(self, llm: BaseLLM | None = None) -> str:
        """The text of the template alone."""
        return self.template.get_template(llm=llm)

    @property
    def _choose(self) -> Choose:
        return (self.function_mappings or {})[EXAMPLES_VARIABLE]

    def _turns(self, kwargs: Mapping[str, Any]) -> Sequence[ChatMessage]:
        return self._choose(**{**self.template.kwargs, **kwargs})


# LlamaIndex deep-copies prompts. A deep copy shares functions but copies bound methods, so these are functions.


def _turns_for(chooser: Chooser | None, question: str) -> Choose:
    def few_shot_examples(**variables: Any) -> Sequence[ChatMessage]:
        handover = _handover(chooser, variables.get(question))
        if handover is None:
            return ()
        handover.turns = handover.decision.insertion.turns
        return [_message(turn) for turn in handover.turns]

    return few_shot_examples


def _text_for(chooser: Chooser | None, question: str) -> Callable[..., str]:
    def few_shot_examples(**variables: Any) -> str:
        handover = _handover(chooser, variables.get(question))
        return as_text(handover.decision.given) if handover else ""

    return few_shot_examples


def _constant(turns: Sequence[ChatMessage]) -> Choose:
    return lambda **_: turns


def _handover(chooser: Chooser | None, question: object) -> Handover | None:
    """The examples to show for this question, if any; marks them as shown."""
    if not isinstance(question, str) or not question.strip():
        return None  # LlamaIndex measures the prompt without a question
    handover = current.get()
    if handover is None or not handover.is_for(question):
        handover = _chosen_here(chooser, question)
    if handover is None or not handover.by_prompt or not handover.decision.given:
        return None
    handover.shown = True
    return handover


def _chosen_here(chooser: Chooser | None, question: str) -> Handover | None:
    if chooser is None:
        return None
    if _on_event_loop():
        chooser.engine.counters.count("bypass.event_loop")
        log.debug("no examples in this prompt: choosing them would block the event loop; use ICCachePostprocessor")
        return None
    decision = chooser.choose(question)
    if decision is None:
        return None
    handover = Handover(chooser, question, decision, by_prompt=True)
    current.set(handover)
    return handover


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _message(turn: Message) -> ChatMessage:
    return ChatMessage(content=turn.text, role=MessageRole.USER if turn.role == "user" else MessageRole.ASSISTANT)
