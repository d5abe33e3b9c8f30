"""How a call becomes a `Request`: what it says itself, completed by what its surface was told when it was built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from langchain_core.messages import BaseMessage, SystemMessage

from iccache_langchain.calls import FREE
from iccache_langchain.messages import normalised
from shared_core.adapters import Context, build_request, current_context
from shared_core.adapters.calls import fingerprint_of, form_of
from shared_core.errors import SettingIsWrong
from shared_core.telemetry import Counters
from shared_core.values import Request

QueryFunction: TypeAlias = Callable[[Sequence[BaseMessage]], str]


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads calls for one surface.

    Attributes:
        counters: Gets ``bypass.query_fn_failed``.
        scope: Whose calls these are where neither call nor context says so.
        strict_scope: Refuse calls that name no scope.
        task: What kind of answer is wanted where neither call nor context says so.
        query_fn: Condenses a conversation into the text that is embedded.
    """

    counters: Counters
    scope: str | None = None
    strict_scope: bool = False
    task: str | None = None
    query_fn: QueryFunction | None = None

    def request(
        self,
        messages: Sequence[BaseMessage],
        said: Context,
        params: Mapping[str, Any] | None = None,
        stop: Sequence[str] | None = None,
    ) -> Request:
        """The Request of one call.

        Args:
            messages: The whole conversation, the system message included.
            said: What the call and its surroundings say.
            params: What is sent beside the messages: tools, response format, model parameters.
            stop: Stop strings.

        Raises:
            SettingIsWrong: `strict_scope`, and nobody named a scope.
        """
        return build_request(
            normalised(messages),
            context=said.over(Context(task=self.task)),
            default_scope=self.scope,
            strict=self.strict_scope,
            form=form_of(params or {}, stop, free=FREE),
            fingerprint=fingerprint_of(params or {}, stop),
            query=self._query(messages),
        )

    def place(self, said: Context, system: str | None = None) -> tuple[str, str]:
        """Scope and task of examples that are added by hand; `system` names the task unless a task is given.

        Raises:
            SettingIsWrong: `strict_scope`, and nobody named a scope.
        """
        turns = normalised([SystemMessage(system)] if system else [])
        context = said.over(current_context()).over(Context(task=self.task))
        request = build_request(turns, context=context, default_scope=self.scope, strict=self.strict_scope)
        return request.scope, request.task

    def _query(self, messages: Sequence[BaseMessage]) -> str | None:
        if self.query_fn is None:
            return None
        try:
            return str(self.query_fn(messages))
        except Exception:  # noqa: BLE001 - fail open, counted
            self.counters.add("bypass.query_fn_failed")
            return ""


def check_scope(scope: str | None, task: str | None, *, strict_scope: bool = False) -> None:
    """Refuse what contradicts itself, before a store is opened.

    Raises:
        SettingIsWrong: An empty scope or task, or a scope that would never be used.
    """
    Context(scope, task)
    if strict_scope and scope is not None:
        raise SettingIsWrong("strict_scope refuses calls that name no scope, so scope= would never be used")
