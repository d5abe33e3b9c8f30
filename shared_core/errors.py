"""The exceptions of IC-Cache. Their names read as sentences; their messages name the cause and the remedy."""

from __future__ import annotations

from numbers import Real


def kind_of(value: object) -> str:
    """The type of a value with its article, for messages that must not show the value."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"


def shown(value: object) -> str:
    """A wrong argument as messages show it: a plain value in at most 50 characters, the kind of anything else."""
    return repr(value)[:50] if value is None or isinstance(value, str | Real) else kind_of(value)


class ICCacheError(Exception):
    """Base class of all exceptions that this package raises on purpose."""


class ConfigurationError(ICCacheError, ValueError):
    """A setting or constructor argument cannot be used as given."""


class InvalidScore(ConfigurationError):
    """A score is not a number in [0, 1]."""

    def __init__(self, score: object) -> None:
        got = repr(float(score)) if isinstance(score, Real) else kind_of(score)  # which may be a text
        super().__init__(f"a score must be a number in [0, 1]; got {got}")


class EmbedderFailed(ICCacheError, ValueError):
    """An embedder did not return usable vectors."""


class RedactionFailed(ICCacheError, ValueError):
    """The redaction function failed; the text was neither embedded nor stored."""


class ModelFailed(ICCacheError):
    """A model could not be reached, refused a call, or did not answer in time."""


class NotFromICCache(ICCacheError, ValueError):
    """An answer holds no decision id: it did not come through IC-Cache, or it lost its metadata on the way."""


class CannotBePickled(ICCacheError, TypeError):
    """An object holds what only one process can use."""

    def __init__(self, what: object, because: str) -> None:
        super().__init__(f"{kind_of(what)} cannot be pickled, because {because}")


class ExtraIsMissing(ICCacheError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'iccache[{extra}]'")


class EmbedderDiffers(ICCacheError, ValueError):
    """The pool was written with another embedder."""

    def __init__(self, pool: str, ours: str) -> None:
        super().__init__(
            f"this pool was written with the embedder {pool!r} and cannot be searched with {ours!r}; "
            f"use {pool!r}, or use {ours!r} with another store (or `clear` this one)"
        )


class StoreIsUnusable(ICCacheError):
    """The store cannot be opened, or not be used with its configuration (once open, never raised for an outage)."""


class StoreIsAway(ICCacheError, OSError):
    """An open store cannot be reached, does not answer in time, or is busy or full: the same call may succeed later.

    Attributes:
        reason: The message without the remedy.
    """

    def __init__(self, reason: str, remedy: str = "try again later") -> None:
        self.reason = reason.rstrip(".")
        super().__init__(f"{self.reason}; {remedy}")


class FeedWasTrimmed(ICCacheError):
    """The change feed no longer reaches back to this replica's position; it must reload."""


class ScopeIsCold(ICCacheError):
    """The examples of this scope are still being loaded."""


class DependencyIsSlow(ICCacheError, TimeoutError):
    """A guarded call did not start or end before its deadline."""


class DependencyIsBusy(DependencyIsSlow):
    """A guarded call did not start, because other requests kept its dependency busy: no failure of the dependency."""


class DependencyIsDown(ICCacheError):
    """The circuit breaker of a dependency is open after repeated failures."""
