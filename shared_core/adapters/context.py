"""The context of a call: its scope, its task, and whether its answer may be stored.

Precedence: the call's own values, then `iccache_context`, then the surface's defaults. All are read once, when the
`Request` is built.
"""

from __future__ import annotations

import difflib
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
PREFIX: Final = "iccache_"

# What the adapters write next to them: the call's run, and the decision, for traces and streamed tokens.
RUN: Final = "iccache_run_id"
DECISION: Final = "iccache_decision_id"
ARM: Final = "iccache_arm"
_OURS: Final = KEYS | {RUN, DECISION, ARM}


@dataclass(frozen=True, slots=True)
class Context:
    """Scope, task and storage option of a call. None leaves a value to the context of lower precedence.

    Attributes:
        scope: The tenant.
        task: The kind of answer expected.
        no_store: True keeps request and answer out of every store. An outer context cannot revoke it.
    """

    scope: str | None = None
    task: str | None = None
    no_store: bool = False

    def __post_init__(self) -> None:
        for name, value in (("scope", self.scope), ("task", self.task)):
            if value is not None and not (isinstance(value, str) and value):
                raise ConfigurationError(f"{name} must be a non-empty string; got {value!r}")
        if not isinstance(self.no_store, bool):
            raise ConfigurationError(f"no_store must be True or False; got {self.no_store!r}")

    @classmethod
    def read(cls, values: Mapping[str, object]) -> Context:
        """From the entries ``iccache_scope``, ``iccache_task`` and ``iccache_no_store`` of a mapping.

        Raises:
            ConfigurationError: An entry has an invalid value, or its key starts with ``iccache_`` and is unknown. None
                is refused, too: neither a tenant id that is None by mistake nor a misspelt key must lead to the default
                scope, which everybody shares.
        """
        _check_keys(values)
        for key in (SCOPE, TASK):
            if key in values and values[key] is None:
                raise ConfigurationError(f"{key} is None; pass a non-empty string, or leave {key} out")
        return cls(values.get(SCOPE), values.get(TASK), values.get(NO_STORE, False))  # type: ignore[arg-type]  # checked

    def over(self, other: Context) -> Context:
        """This context, with missing values taken from `other`."""
        return Context(self.scope or other.scope, self.task or other.task, self.no_store or other.no_store)

    def entries(self) -> dict[str, object]:
        """The mapping that `read` accepts, without missing values."""
        values = {SCOPE: self.scope, TASK: self.task, NO_STORE: self.no_store or None}
        return {key: value for key, value in values.items() if value is not None}


def _check_keys(values: Mapping[str, object]) -> None:
    unknown = (key for key in values if isinstance(key, str) and key.startswith(PREFIX) and key not in _OURS)
    for key in unknown:
        names = [known.removeprefix(PREFIX) for known in sorted(KEYS)]  # the prefix alone would make any two similar
        near = difflib.get_close_matches(key.removeprefix(PREFIX), names, 1)
        remedy = f"did you mean {PREFIX}{near[0]}?" if near else f"pass {', '.join(sorted(KEYS))}"
        raise ConfigurationError(f"{key} is unknown to IC-Cache; {remedy}")


_EMPTY: Final = Context()
_current: ContextVar[Context] = ContextVar("iccache_context", default=_EMPTY)


@contextmanager
def iccache_context(*, scope: str | None = None, task: str | None = None, no_store: bool = False) -> Iterator[None]:
    """Set scope and task for the IC-Cache calls inside the block that do not set their own.

    Includes threads and tasks that copy the context (LangChain's batch, async and LangGraph nodes do). A chain's stream
    runs where it is read, not where it was created: pass its scope with the call instead.

    Args:
        scope: The tenant; None keeps the outer scope.
        task: The kind of answer expected; None keeps the outer task.
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
    """The context of the enclosing `iccache_context` blocks."""
    return _current.get()
