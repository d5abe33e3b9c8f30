"""A framework's conversation, normalised, as the `Request` of one call."""

from __future__ import annotations

from collections.abc import Sequence

from shared_core.adapters.context import Context
from shared_core.errors import SettingIsWrong
from shared_core.values import DEFAULT_SCOPE, Message, Request, digest, fold


def default_task(messages: Sequence[Message], form: str = "") -> str:
    """A name for the kind of answer that is expected: 16 hex digits of system messages and form.

    Args:
        messages: The conversation.
        form: Canonical JSON of whatever binds the answer to a form (tools, response format, stop); empty for free text.
    """
    return digest([[fold(m.text) for m in messages if m.role == "system"], form])[:16]


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
        SettingIsWrong: `strict`, and the context names no scope.
    """
    if strict and context.scope is None:
        raise SettingIsWrong(
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
