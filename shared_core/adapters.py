"""What every framework adapter needs to make a `Request`: whose it is, what kind it is, and what it asks.

Precedence of scope and task (DESIGN.md §4.3): what the call itself says, then `iccache_context`, then the adapter's own
default. They are read once, when the Request is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from shared_core.errors import SettingIsWrong
from shared_core.values import DEFAULT_SCOPE, Message, Request, digest, fold

SCOPE: Final = "iccache_scope"
TASK: Final = "iccache_task"
NO_STORE: Final = "iccache_no_store"
KEYS: Final = frozenset({SCOPE, TASK, NO_STORE})


@dataclass(frozen=True, slots=True)
class Context:
    """What a call says about itself. None leaves the question to whoever is asked next.

    Attributes:
        scope: Whose request it is.
        task: What kind of answer is expected.
        no_store: True keeps request and answer out of every store. Nobody further out can take it back.
    """

    scope: str | None = None
    task: str | None = None
    no_store: bool = False

    def __post_init__(self) -> None:
        for name, value in (("scope", self.scope), ("task", self.task)):
            if value is not None and not (isinstance(value, str) and value):
                raise SettingIsWrong(f"{name} must be a string that is not empty; got {value!r}")
        if not isinstance(self.no_store, bool):
            raise SettingIsWrong(f"no_store must be True or False; got {self.no_store!r}")

    @classmethod
    def read(cls, values: Mapping[str, object]) -> Context:
        """From the entries ``iccache_scope``, ``iccache_task`` and ``iccache_no_store`` of a mapping.

        Raises:
            SettingIsWrong: An entry is there and has no usable value. None is refused too: a tenant's id that is
                unexpectedly None must not lead to the scope that everybody shares.
        """
        for key in (SCOPE, TASK):
            if key in values and values[key] is None:
                raise SettingIsWrong(f"{key} is None; give a string that is not empty, or leave {key} out")
        return cls(values.get(SCOPE), values.get(TASK), values.get(NO_STORE, False))  # type: ignore[arg-type]  # checked

    def over(self, other: Context) -> Context:
        """This context, completed by `other` where it says nothing."""
        return Context(self.scope or other.scope, self.task or other.task, self.no_store or other.no_store)

    def entries(self) -> dict[str, object]:
        """The mapping that `read` reads; what is not said is left out."""
        said = {SCOPE: self.scope, TASK: self.task, NO_STORE: self.no_store or None}
        return {key: value for key, value in said.items() if value is not None}


_UNSAID: Final = Context()
_current: ContextVar[Context] = ContextVar("iccache_context", default=_UNSAID)


@contextmanager
def iccache_context(*, scope: str | None = None, task: str | None = None, no_store: bool = False) -> Iterator[None]:
    """Every IC-Cache call made inside belongs to this scope and task, unless it says otherwise itself.

    Holds for threads and tasks that copy the context (LangChain's batch, async and LangGraph nodes do). A chain's
    stream runs where it is consumed, not where it was made: name its scope in the call instead.

    Args:
        scope: Whose requests these are; None leaves the scope as it is outside.
        task: What kind of answer is expected; None leaves the task as it is outside.
        no_store: True keeps requests and answers out of every store.

    Raises:
        SettingIsWrong: An empty scope or task.
    """
    token = _current.set(Context(scope, task, no_store).over(_current.get()))
    try:
        yield
    finally:
        _current.reset(token)


def current_context() -> Context:
    """What the innermost `iccache_context` says."""
    return _current.get()


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
) -> Request:
    """The Request of one call.

    Args:
        messages: The whole conversation, normalised.
        context: What the call and its surroundings say.
        default_scope: The adapter's own scope, for calls that name none.
        strict: Refuse calls that name no scope.
        form: See `default_task`.
        fingerprint: Canonical text of what else identifies the call.
        query: What the user's `query_fn` made of the conversation; None for the last user turn.

    Raises:
        SettingIsWrong: `strict`, and the context names no scope.
    """
    if strict and context.scope is None:
        raise SettingIsWrong(
            "this call names no scope and strict_scope is on; use .bind(iccache_scope=…), "
            "config={'configurable': {'iccache_scope': …}} or, where nothing is streamed, iccache_context(scope=…)"
        )
    condensed = query is not None
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
        examples_allowed=last is not None and last.role == "user" and (condensed or not last.extra),
    )
