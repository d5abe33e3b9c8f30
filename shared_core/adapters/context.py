"""Whose call this is, what kind of answer it wants, and whether it may be kept.

Precedence: what the call itself says, then `iccache_context`, then the adapter's own default. All are read once, when
the Request is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from shared_core.errors import ConfigurationError

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
                raise ConfigurationError(f"{name} must be a string that is not empty; got {value!r}")
        if not isinstance(self.no_store, bool):
            raise ConfigurationError(f"no_store must be True or False; got {self.no_store!r}")

    @classmethod
    def read(cls, values: Mapping[str, object]) -> Context:
        """From the entries ``iccache_scope``, ``iccache_task`` and ``iccache_no_store`` of a mapping.

        Raises:
            ConfigurationError: An entry is there and has no usable value. None is refused too: a tenant's id that is
                unexpectedly None must not lead to the scope that everybody shares.
        """
        for key in (SCOPE, TASK):
            if key in values and values[key] is None:
                raise ConfigurationError(f"{key} is None; give a string that is not empty, or leave {key} out")
        return cls(values.get(SCOPE), values.get(TASK), values.get(NO_STORE, False))  # type: ignore[arg-type]  # checked

    def over(self, other: Context) -> Context:
        """This context, completed by `other` where it says nothing."""
        return Context(self.scope or other.scope, self.task or other.task, self.no_store or other.no_store)

    def entries(self) -> dict[str, object]:
        """The mapping that `read` reads; what is not said is left out."""
        values = {SCOPE: self.scope, TASK: self.task, NO_STORE: self.no_store or None}
        return {key: value for key, value in values.items() if value is not None}


_EMPTY: Final = Context()
_current: ContextVar[Context] = ContextVar("iccache_context", default=_EMPTY)


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
        ConfigurationError: An empty scope or task.
    """
    token = _current.set(Context(scope, task, no_store).over(_current.get()))
    try:
        yield
    finally:
        _current.reset(token)


def current_context() -> Context:
    """What the innermost `iccache_context` says."""
    return _current.get()
