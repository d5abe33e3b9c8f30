"""Converts a framework's call into a `Request`; the only place that does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

from shared_core.adapters.context import Context, current_context
from shared_core.adapters.parameters import FREE, fingerprint_of, form_of
from shared_core.errors import ConfigurationError
from shared_core.failures import Failures
from shared_core.text import digest, fold
from shared_core.values import DEFAULT_SCOPE, Message, Request

M = TypeVar("M")  # a framework's message


@dataclass(frozen=True, slots=True)
class Requests(Generic[M]):
    """Converts the calls of one surface.

    Attributes:
        normalise: Converts the framework's messages into ours.
        failures: Counts and logs ``bypass.query_fn_failed``.
        scope: Default scope, if neither the call nor the context sets one.
        strict_scope: Refuse calls without a scope.
        task: Default task, if neither the call nor the context sets one.
        query_fn: Condenses a conversation into the text that is embedded. If it fails, the query is empty, and the call
            goes on without examples.
        find_question: Finds the question within the last user text; returns None if the whole text is the question.
        free: Parameters that leave the answer free text.
        scope_advice: How a call of this surface gets a scope, for the message of `strict_scope`.
    """

    normalise: Callable[[Sequence[M]], tuple[Message, ...]]
    failures: Failures
    scope: str | None = None
    strict_scope: bool = False
    task: str | None = None
    query_fn: Callable[[Sequence[M]], str] | None = None
    find_question: Callable[[str], str | None] | None = None
    free: frozenset[str] = FREE
    scope_advice: str = "use iccache_context(scope=…)"

    def request(
        self,
        messages: Sequence[M],
        context: Context,
        params: Mapping[str, object] | None = None,
        stop: Sequence[str] | None = None,
        *,
        query: str | None = None,
    ) -> Request:
        """The `Request` of one call.

        Args:
            messages: The whole conversation, the system message included.
            context: Scope, task and storage option of the call and its surroundings.
            params: The call's other arguments: tools, response format, model parameters.
            stop: Stop strings.
            query: The text to embed, instead of the result of `query_fn`.

        Raises:
            ConfigurationError: `strict_scope` is set, and the call has no scope.
        """
        form = form_of(params or {}, stop, free=self.free)
        return self.of_form(messages, context, form, fingerprint_of(params or {}, stop), query=query)

    def of_form(
        self, messages: Sequence[M], context: Context, form: str, fingerprint: str, *, query: str | None = None
    ) -> Request:
        """`request` with a given form and fingerprint (see `build_request`)."""
        self._check_scope(context, self.scope_advice)
        turns = self.normalise(messages)
        condensed = query is None and self.query_fn is not None
        if condensed:
            query = self._condensed(messages)
        elif query is None and self.find_question:
            query = self.find_question(query_of(turns))
        return build_request(
            turns,
            context=context.over(Context(task=self.task)),
            default_scope=self.scope,
            form=form,
            fingerprint=fingerprint,
            query=query,
            condensed=condensed,
        )

    def place(self, context: Context, system: str | None = None, scope_advice: str | None = None) -> tuple[str, str]:
        """Scope and task for examples that are added by hand; `system` determines the task if there is no other.

        `scope_advice` says how the caller gets a scope, if not like the calls of this surface.

        Raises:
            ConfigurationError: `strict_scope` is set, and there is no scope.
        """
        turns = (Message("system", system),) if system else ()
        context = context.over(current_context()).over(Context(task=self.task))
        self._check_scope(context, scope_advice or self.scope_advice)
        request = build_request(turns, context=context, default_scope=self.scope)
        return request.scope, request.task

    def _check_scope(self, context: Context, advice: str) -> None:
        if self.strict_scope and context.scope is None:
            raise ConfigurationError(f"this call has no scope, and strict_scope is set; {advice}")

    def _condensed(self, messages: Sequence[M]) -> str:
        try:
            return str(self.query_fn(messages)) if self.query_fn else ""
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self.failures.count("bypass.query_fn_failed", error)
            return ""


def default_task(messages: Sequence[Message], form: str = "") -> str:
    """The name of the kind of answer expected: 16 hex digits, a hash of system messages and form.

    Args:
        messages: The conversation.
        form: Canonical JSON of the parameters that determine the answer's form (tools, response format, stop); empty
            for free text.
    """
    return _task_of(tuple([m.text for m in messages if m.role == "system"]), form)


@lru_cache(maxsize=64)  # a program has few system messages, and to fold and hash one takes a tenth of a look-up
def _task_of(system: tuple[str, ...], form: str) -> str:
    return digest([[fold(text) for text in system], form])[:16]


def query_of(messages: Sequence[Message]) -> str:
    """The text of the last turn (system messages aside) if it is the user's, else the empty string."""
    last = next((m for m in reversed(messages) if m.role != "system"), None)
    return last.text if last and last.role == "user" else ""


def build_request(
    messages: Sequence[Message],
    *,
    context: Context,
    default_scope: str | None = None,
    form: str = "",
    fingerprint: str = "",
    query: str | None = None,
    condensed: bool = True,
) -> Request:
    """The `Request` of one call.

    Args:
        messages: The whole conversation, normalised.
        context: Scope, task and storage option of the call and its surroundings.
        default_scope: The surface's scope, for calls without one.
        form: See `default_task`.
        fingerprint: Canonical text of what else identifies the call.
        query: The text to embed, such as the result of `query_fn`; None for the last user turn.
        condensed: False if `query` covers only the last turn, not the earlier ones.
    """
    condensed = condensed and query is not None
    last = next((m for m in reversed(messages) if m.role != "system"), None)
    return Request(
        messages=tuple(messages),
        query=query_of(messages) if query is None else query,
        scope=context.scope or default_scope or DEFAULT_SCOPE,
        task=context.task or default_task(messages, form),
        fingerprint=fingerprint,
        store=not context.no_store,
        condensed=condensed,
        # The query does not hold pictures, so examples chosen by the query alone would answer another question.
        examples_allowed=last is not None and last.role == "user" and (condensed or last.is_text),
    )
