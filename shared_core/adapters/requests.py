"""A framework's call, read into a `Request`: here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

from shared_core.adapters.context import Context, current_context
from shared_core.adapters.parameters import FREE, fingerprint_of, form_of
from shared_core.errors import ConfigurationError
from shared_core.telemetry import Counters
from shared_core.text import digest, fold
from shared_core.values import DEFAULT_SCOPE, Message, Request

M = TypeVar("M")  # a framework's message


@dataclass(frozen=True, slots=True)
class Requests(Generic[M]):
    """Reads the calls of one surface.

    Attributes:
        normalise: Makes our messages of the framework's.
        counters: Gets ``bypass.query_fn_failed``.
        scope: Whose calls these are where neither call nor context says so.
        strict_scope: Refuse calls that name no scope.
        task: What kind of answer is wanted where neither call nor context says so.
        query_fn: Condenses a conversation into the text that is embedded. Where it fails, the query is empty, and the
            call goes on without examples.
        find_question: Finds the question within the last user text; None where that is the question itself.
        free: Parameters that leave the answer free text.
    """

    normalise: Callable[[Sequence[M]], tuple[Message, ...]]
    counters: Counters
    scope: str | None = None
    strict_scope: bool = False
    task: str | None = None
    query_fn: Callable[[Sequence[M]], str] | None = None
    find_question: Callable[[str], str | None] | None = None
    free: frozenset[str] = FREE

    def request(
        self,
        messages: Sequence[M],
        context: Context,
        params: Mapping[str, object] | None = None,
        stop: Sequence[str] | None = None,
        *,
        query: str | None = None,
    ) -> Request:
        """The Request of one call.

        Args:
            messages: The whole conversation, the system message included.
            context: What the call and its surroundings say.
            params: What is sent beside the messages: tools, response format, model parameters.
            stop: Stop strings.
            query: The text to be embedded, where the surface knows it better than `query_fn`.

        Raises:
            ConfigurationError: `strict_scope`, and nobody named a scope.
        """
        form = form_of(params or {}, stop, free=self.free)
        return self.of_form(messages, context, form, fingerprint_of(params or {}, stop), query=query)

    def of_form(
        self, messages: Sequence[M], context: Context, form: str, fingerprint: str, *, query: str | None = None
    ) -> Request:
        """`request`, where form and fingerprint of the call are known (see `build_request`)."""
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
            strict=self.strict_scope,
            form=form,
            fingerprint=fingerprint,
            query=query,
            condensed=condensed,
        )

    def place(self, context: Context, system: str | None = None) -> tuple[str, str]:
        """Scope and task of examples that are added by hand; `system` names the task unless a task is given.

        Raises:
            ConfigurationError: `strict_scope`, and nobody named a scope.
        """
        turns = (Message("system", system),) if system else ()
        context = context.over(current_context()).over(Context(task=self.task))
        request = build_request(turns, context=context, default_scope=self.scope, strict=self.strict_scope)
        return request.scope, request.task

    def _condensed(self, messages: Sequence[M]) -> str:
        try:
            return str(self.query_fn(messages)) if self.query_fn else ""
        except Exception:  # noqa: BLE001 - fail open, counted
            self.counters.count("bypass.query_fn_failed")
            return ""


def default_task(messages: Sequence[Message], form: str = "") -> str:
    """A name for the kind of answer that is expected: 16 hex digits of system messages and form.

    Args:
        messages: The conversation.
        form: Canonical JSON of whatever binds the answer to a form (tools, response format, stop); empty for free text.
    """
    return _task_of(tuple([m.text for m in messages if m.role == "system"]), form)


@lru_cache(maxsize=64)  # a program has few system messages, and to fold and hash one takes a tenth of a look-up
def _task_of(system: tuple[str, ...], form: str) -> str:
    return digest([[fold(text) for text in system], form])[:16]


def query_of(messages: Sequence[Message]) -> str:
    """The text of the last turn if the user speaks there, else the empty string; system messages are no turns."""
    last = next((m for m in reversed(messages) if m.role != "system"), None)
    return last.text if last and last.role == "user" else ""


def build_request(
    messages: Sequence[Message],
    *,
    context: Context,
    default_scope: str | None = None,
    strict: bool = False,
    form: str = "",
    fingerprint: str = "",
    query: str | None = None,
    condensed: bool = True,
) -> Request:
    """The Request of one call.

    Args:
        messages: The whole conversation, normalised.
        context: What the call and its surroundings say.
        default_scope: The adapter's own scope, for calls that name none.
        strict: Refuse calls that name no scope.
        form: See `default_task`.
        fingerprint: Canonical text of what else identifies the call.
        query: The text to be embedded, such as what the user's `query_fn` made of the conversation; None for the
            last user turn.
        condensed: False if `query` stands for the last turn alone, not for the earlier ones as well.

    Raises:
        ConfigurationError: `strict`, and the context names no scope.
    """
    if strict and context.scope is None:
        raise ConfigurationError(
            "this call names no scope and strict_scope is on; name it in the call (iccache_scope=…), bind it "
            "(.bind(iccache_scope=…), or in LangChain config={'configurable': {'iccache_scope': …}}) or, where nothing is "
            "streamed, use iccache_context(scope=…)"
        )
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
        # A picture is not in the query, so examples chosen by the query alone would answer another question.
        examples_allowed=last is not None and last.role == "user" and (condensed or last.is_text),
    )
