"""One call of `ICCacheChatModel`: what LangChain gave it, and how the chosen arm is asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from iccache_langchain import arms as arm_calls
from shared_core.adapters.context import Context
from shared_core.adapters.parameters import bypass_of, decision_id
from shared_core.values import Decision


@dataclass(frozen=True, slots=True)
class ChatCall:
    """One call as LangChain made it. Its methods send it to the arm of a decision, with the decision's examples.

    Attributes:
        arms: The candidate models.
        messages: The conversation.
        stop: Stop strings.
        kwargs: Other arguments for the arm.
        context: Scope, task and whether the answer may be stored.
        run: LangChain's callbacks for the arm's tokens.
        run_id: LangChain's run id, which becomes the decision id.
    """

    arms: Mapping[str, arm_calls.ArmModel]
    messages: Sequence[BaseMessage]
    stop: list[str] | None
    kwargs: Mapping[str, Any]
    context: Context
    run: Any  # LangChain's manager of this colour: `CallbackManagerForLLMRun` or the async one
    run_id: UUID | str | None

    @property
    def identity(self) -> str | None:
        """The id of its decision."""
        return decision_id(self.run_id) if self.run_id else None

    @property
    def bypass(self) -> str:
        """Why the call is not routed; empty if it is."""
        return bypass_of(self.kwargs)

    def generate(self, decision: Decision) -> ChatResult:
        """The arm's answer."""
        run: CallbackManagerForLLMRun | None = self.run
        arm = self.arms[decision.arm]
        return arm_calls.generate(arm, self.messages, decision.insertion, self.stop, run, **self.kwargs)

    async def agenerate(self, decision: Decision) -> ChatResult:
        """`generate` with the arm's own async client."""
        run: AsyncCallbackManagerForLLMRun | None = self.run
        arm = self.arms[decision.arm]
        return await arm_calls.agenerate(arm, self.messages, decision.insertion, self.stop, run, **self.kwargs)

    def stream(self, decision: Decision) -> Generator[ChatGenerationChunk, None, None]:
        """The chunks of the arm's answer."""
        run: CallbackManagerForLLMRun | None = self.run
        arm = self.arms[decision.arm]
        return arm_calls.stream(arm, self.messages, decision.insertion, self.stop, run, **self.kwargs)

    async def astream(self, decision: Decision) -> AsyncGenerator[ChatGenerationChunk, None]:
        """`stream` with the arm's own async client."""
        run: AsyncCallbackManagerForLLMRun | None = self.run
        arm = self.arms[decision.arm]
        return arm_calls.astream(arm, self.messages, decision.insertion, self.stop, run, **self.kwargs)
