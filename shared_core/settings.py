"""All settings, typed, each with its default and the reason for it.

Values come from code, then ``ICCACHE_*`` environment variables, then ``iccache.toml`` in the working folder.

The name of a new setting begins with its part, one of `PART_PREFIXES`: ``replay_budget``, not ``budget``. Settings
without a prefix are older than this rule, and keep their names.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from shared_core.errors import ConfigurationError, kind_of
from shared_core.telemetry import get_logger

log = get_logger("settings")

DAY: Final = 86_400.0
PREFIX: Final = "ICCACHE_"
FILE: Final = "iccache.toml"

PART_PREFIXES: Final = (
    "evict_",
    "exact_",
    "judge_",
    "load_",
    "log_",
    "probe_",
    "replay_",
    "route_",
    "score_",
    "select_",
    "serve_",
    "wait_",
)
# Variables of the project's own benchmarks and tests, which are not settings.
OTHER_VARIABLES: Final = frozenset({"ICCACHE_CACHE", "ICCACHE_DATA", "ICCACHE_MANUALS", "ICCACHE_TEST_REDIS_SERVER"})

# Words for the JSON schema of a field.
_KINDS: Final = {"integer": "a whole number", "number": "a number"}
_BOUNDS: Final = (
    ("minimum", "from {:g}"),
    ("exclusiveMinimum", "above {:g}"),
    ("maximum", "to {:g}"),
    ("exclusiveMaximum", "below {:g}"),
)


class Settings(BaseSettings):
    """All settings of one engine: from code over environment over iccache.toml. Frozen.

    Raises:
        ConfigurationError: An argument, a variable or a key of the file is invalid; the message names it, its value and
            the valid range. Or the file cannot be read.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, toml_file=Path(FILE), frozen=True, extra="forbid")

    # selection (paper §4.1)
    candidates: int = Field(16, ge=1, le=256, description="Candidates of stage 1; three times the examples shown.")
    max_examples: int = Field(5, ge=0, le=50, description="Examples in a prompt; 5 is the paper's usual count.")
    example_tokens: int = Field(1024, ge=0, description="Estimated tokens of all examples of a prompt together.")
    relevance_quantile: float = Field(
        0.9,
        ge=0.0,
        le=1.0,
        description="A candidate must be more similar than this share of the pool's random pairs. A quantile, "
        "because the same cosine means different things with different embedders and pools.",
    )
    duplicate_similarity: float = Field(
        0.995, ge=0.0, le=1.0, description="Of two chosen examples this similar to each other, one is dropped."
    )

    # routing (paper §4.2)
    quality_target: float = Field(
        0.9, ge=0.0, le=1.0, description="Share of the reference arm's expected reward that another arm must reach."
    )
    cost_weight: float = Field(
        0.5,
        ge=0.0,
        description="Reward that one unit of relative cost is worth. High, because the quality guard has already "
        "excluded every arm that is not good enough; of the others, the cheaper one should win.",
    )
    confidence: float = Field(
        0.5,
        ge=0.0,
        description="Standard deviations that the quality guard subtracts from an arm's mean. The router assumes the "
        "largest noise that a reward can have, about twice the real one, so 0.5 is about one real deviation.",
    )
    explore: float = Field(
        0.1,
        ge=0.0,
        le=1.0,
        description="Share of requests with examples that go to little-known arms, to learn about them.",
    )
    seed: int = Field(0, description="Seed of every random draw; equal seed and state give equal decisions.")

    # what is stored (paper §4.3)
    max_pool: int = Field(100_000, ge=1, description="Examples per scope; the oldest are evicted first.")
    exact_ttl: float = Field(7 * DAY, gt=0, description="Seconds for which an exact answer may be served.")
    decision_ttl: float = Field(
        7 * DAY, gt=0, description="Seconds for which a decision is kept and feedback on it accepted."
    )
    log_records: int = Field(
        100_000,
        ge=1,
        description="Decision records per scope, 3 kB each (4 kB in SQLite); the oldest beyond that are deleted within a "
        "minute. Enough to train on, and for feedback that comes hours later at 10 requests a second.",
    )
    log_vectors: bool = Field(
        True, description="Keep each request's vector in its decision record; SECURITY.md says what it gives away."
    )
    trust_feedback: float = Field(
        0.8,
        ge=0.0,
        le=1.0,
        description="Reward from which an answer of another arm than the reference may become an example.",
    )
    wait_ttl: float = Field(
        2 * DAY,
        gt=0,
        description="Seconds for which such an answer waits for its feedback in the store, as plain text. Two days, so "
        "a nightly job can rate all of the day before.",
    )
    wait_answers: int = Field(
        10_000,
        ge=0,
        description="Such answers per scope, the oldest leave first; a tenth of `max_pool`. 0 keeps none: then only "
        "answers of the reference become examples.",
    )
    wait_mb: int = Field(
        64,
        ge=1,
        description="Megabytes of such answers per scope; 10,000 of a usual length (2 kB of texts, 2 kB of vector) "
        "take 40.",
    )

    # the request path
    deadline: float = Field(
        0.25, gt=0, description="Seconds by which IC-Cache may delay a request, all steps together."
    )
    workers: int = Field(
        4, ge=1, le=64, description="Threads per dependency (embedder, store) for calls on the request path."
    )
    refresh: float = Field(0.25, gt=0, description="Seconds between reads of the change feed and the checkpoint.")
    learn_every: float = Field(2.0, gt=0, description="Seconds between rounds of the background learner.")
    score_threads: int = Field(
        4, ge=1, le=64, description="Calls of the reward function at once; 1 if it must not be called in parallel."
    )
    drain: float = Field(5.0, ge=0, description="Seconds that flush, close and exit wait for pending records.")

    if not TYPE_CHECKING:  # type checkers take the constructor's arguments from the fields

        def __init__(self, **given: Any) -> None:
            _warn_of_misspelt(os.environ)
            with _refusals(given):
                super().__init__(**given)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic names it
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic names it
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Code over environment over TOML; no dotenv, no secrets folder."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def check_settings(settings: object) -> None:
    """Check the type of `settings`.

    Raises:
        ConfigurationError: They are neither `Settings` nor None.
    """
    if not isinstance(settings, Settings | None):
        raise ConfigurationError(
            f"settings is {kind_of(settings)}; pass ICCacheSettings(max_examples=3), or each setting as an argument of its own"
        )


@contextmanager
def _refusals(given: Mapping[str, Any]) -> Iterator[None]:
    """Turn what pydantic and the file raise into `ConfigurationError`; `given` are the arguments in code."""
    try:
        yield
    except ValidationError as error:
        texts = [_error_text(str(e["loc"][0]), e["input"], given) for e in error.errors()]
        raise ConfigurationError("; ".join(texts)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{FILE} is not TOML: {error}; write one line per setting, e.g. max_examples = 3"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"{FILE} cannot be read: {error.strerror}; make it readable, or move it away"
        ) from None


def _warn_of_misspelt(environment: Mapping[str, str]) -> None:
    """Warn about variables that look like settings. Only a warning, because they may belong to another program."""
    for variable in sorted(name for name in environment if name.upper().startswith(PREFIX)):
        key = variable[len(PREFIX) :].lower()
        if key not in Settings.model_fields and variable.upper() not in OTHER_VARIABLES:
            near = [f"{PREFIX}{name}".upper() for name in difflib.get_close_matches(key, Settings.model_fields, 1)]
            hint = f"did you mean {near[0]}?" if near else "docs/settings.md lists all"
            log.warning("the environment variable %s is not a setting and has no effect; %s", variable, hint)


def _error_text(key: str, value: object, given: Mapping[str, Any]) -> str:
    """The message for an invalid setting `key` from code, a variable or the file."""
    source = "" if key in given else f"{FILE}: "
    allowed = Settings.model_json_schema()["properties"].get(key)
    if allowed is None:
        near = difflib.get_close_matches(key, Settings.model_fields, 1)
        hint = f"did you mean {near[0]}?" if near else "docs/settings.md lists all"
        return f"{source}{key} is not a setting; {hint}"
    variable = next((v for v in os.environ if v.upper() == f"{PREFIX}{key}".upper()), None)
    name = variable if variable and key not in given else f"{source}{key}"
    return f"{name} is {repr(value)[:50]}; it must be {_range(allowed)}"


def _range(allowed: Mapping[str, Any]) -> str:
    """The valid range of a field, in words."""
    bounds = [words.format(allowed[name]) for name, words in _BOUNDS if name in allowed]
    return " ".join([_KINDS.get(str(allowed.get("type")), "another value"), *bounds])
