"""Examples in a Workflow: one step prepares the messages, another calls the model, a third may record the answer.

Context variables do not pass from one step to the next, so one value carries everything in the events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llama_index.core.base.llms.types import ChatMessage, MessageRole

from iccache_llamaindex.messages import Response, insert, normalised, outcome_of
from shared_core.adapters.context import Context, current_context
from shared_core.adapters.provenance import is_trusted
from shared_core.adapters.requests import Requests
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError, kind_of
from shared_core.values import UNROUTED, Decision


@dataclass(frozen=True, slots=True)
class Prepared:
    """A conversation with its examples, for the events of a workflow.

    Attributes:
        engine: Records the answer.
        messages: The messages to send to a model.
        decision: Which examples were chosen, and why.
    """

    engine: Engine
    messages: list[ChatMessage]
    decision: Decision

    @property
    def decision_id(self) -> str:
        """The id for feedback: ``engine.submit_feedback(decision_id, score)``."""
        return self.decision.id

    def answered(self, response: Response, *, reference: str | None = None) -> None:
        """Record the answer, which may become an example. Does not wait and does not raise.

        Args:
            response: The model's answer.
            reference: The model whose answers may become examples without feedback, as its answers name it. By default
                every model whose answers name it.
        """
        outcome = outcome_of(response)
        decision = replace(self.decision, route=replace(self.decision.route, arm=outcome.writer or UNROUTED))
        self.engine.submit_record(decision, outcome, trusted=is_trusted(outcome.writer, reference))


async def with_examples(
    engine: Engine, messages: Sequence[ChatMessage] | str, *, scope: str | None = None, task: str | None = None
) -> Prepared:
    """The conversation with helpful examples as turns after its system messages. Fails open.

    ```python
    @step
    async def prepare(self, event: StartEvent) -> AskEvent:
        return AskEvent(prepared=await with_examples(examples.engine, event.question))

    @step
    async def ask(self, event: AskEvent) -> StopEvent:
        response = await self.llm.achat(event.prepared.messages)
        event.prepared.answered(response, reference="qwen2.5-32b")
        return StopEvent(result=response.message.content)
    ```

    Args:
        engine: The engine of any surface: ``examples.engine``.
        messages: The conversation, or a question.
        scope: The tenant; by default that of the surrounding `iccache_context`.
        task: The kind of answer wanted; by default a hash of the system message.

    Raises:
        ConfigurationError: An empty scope or task, or an argument of another kind.
    """
    _check_kinds(engine, messages)
    if isinstance(messages, str):
        messages = [ChatMessage(role=MessageRole.USER, content=messages)]
    request = Requests(normalised, engine.failures).request(messages, Context(scope, task).over(current_context()))
    decision = await engine.aselect(request)
    return Prepared(engine, insert(messages, decision.insertion), decision)


def _check_kinds(engine: object, messages: object) -> None:
    if not isinstance(engine, Engine):
        raise ConfigurationError(f"engine is {kind_of(engine)}; pass the engine of a surface, such as examples.engine")
    if isinstance(messages, str):
        return
    each = messages if isinstance(messages, Sequence) else [messages]
    other = [message for message in each if not isinstance(message, ChatMessage)]
    if other:
        raise ConfigurationError(f"messages must be a text, or a list of ChatMessage; got {kind_of(other[0])}")
