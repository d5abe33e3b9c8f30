"""`iccache feedback`: one rating, from outside of the services that answer."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

from typer import Argument, Option

from shared_core.cli.output import write, write_json
from shared_core.cli.stores import check_shared
from shared_core.errors import ConfigurationError

if TYPE_CHECKING:
    from shared_core.records import DecisionRecord
    from shared_core.settings import Settings
    from shared_core.store.protocol import Store

DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Rated:
    """The result of a rating.

    Attributes:
        decision: Id of the decision.
        scope: Its scope.
        rater: Who rated.
        score: The rating in [0, 1].
        counted: False if this rater has rated this decision before.
        example: What became of the answer: ``"added"``, ``"there"`` before, ``"waits"`` for a better rating, ``"known"``
            because the pool has a good answer to the same question, ``"expired"``, ``"gone"`` for lack of room, or
            ``"none"`` because it was never to be one.
    """

    decision: str
    scope: str
    rater: str
    score: float
    counted: bool
    example: str


def feedback(
    decision: Annotated[
        str, Argument(metavar="DECISION", help="The answer's `decision_id`, as its metadata has it under `iccache`.")
    ],
    score: Annotated[float, Argument(metavar="SCORE", help="How good the answer is, from 0 to 1.")],
    store: Annotated[str, Option(metavar="URL", help="The pool: `sqlite:///file.db`, `redis://host:port/db`, …")],
    scope: Annotated[str | None, Option(metavar="NAME", help="Refuse a decision of any other scope.")] = None,
    rater: Annotated[str, Option(metavar="NAME", help="Who rates. Each rater counts once for an answer.")] = "user",
    as_json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Rate one answer, as `record_feedback` does in your code.

    The router learns from the rating. A good one (`trust_feedback`, 0.8) also makes an example of an answer by another
    model than the reference, if that still waits in the store; it waits for two days (`wait_ttl`). A rating below 0.5
    deletes the answer from the cache of identical calls.

    The settings `trust_feedback` and `wait_ttl` come from ICCACHE_ variables or iccache.toml in this folder, and must be
    those of your services.

    For example, where a user gave a thumbs up:

        iccache feedback 9f2c41d07be84c3f8a51d6e0b7a3c915 1 --store sqlite:///p.db
    """
    if not 0.0 <= score <= 1.0:  # false for NaN, too
        raise ConfigurationError(f"SCORE is {score:g}; give a number from 0 (useless) to 1 (right)")
    if not rater.strip():
        raise ConfigurationError("--rater is empty; name who rates, or leave it out for 'user'")
    check_shared(store)
    from shared_core.engine import Engine
    from shared_core.settings import Settings
    from shared_core.store import open_store

    settings = Settings()
    opened = open_store(store, settings=settings)
    try:
        record = _known(opened, _plain_id(decision), scope, settings)
        decision = record.id
        waited = bool(opened.waiting([decision]))
        engine = Engine(store=opened, settings=settings, background=False)
        try:
            counted = engine.feedback(decision, score, rater)
        finally:
            engine.close()
        after = opened.decisions([decision]).get(decision) or record
        example = _example(opened, record, after, settings, waited=waited)
    finally:
        opened.close()
    rated = Rated(decision, record.scope, rater, score, counted, example)
    if as_json:
        write_json(asdict(rated))
    else:
        _show(rated, settings)


def _plain_id(given: str) -> str:
    """A decision id, or the run id of a call in LangChain's form."""
    try:
        return UUID(given).hex
    except ValueError:
        return given  # an id of the caller's own


def _known(store: Store, decision: str, scope: str | None, settings: Settings) -> DecisionRecord:
    """The record of the decision.

    Raises:
        ConfigurationError: The store has none, or it belongs to another scope.
    """
    record = store.decisions([decision]).get(decision)
    if record is None or scope not in (None, record.scope):
        where = f" of the scope {scope!r}" if scope else ""  # the id is not quoted: it may be an answer's text
        raise ConfigurationError(
            f"{store.label} holds no decision with this id{where}; the id stands in the answer's metadata, under "
            f"'iccache', as 'decision_id'. A decision is kept for {settings.decision_ttl / DAY:g} days (the setting "
            "decision_ttl), and not at all with no_store; check the id, --store and --scope"
        )
    return record


def _example(store: Store, before: DecisionRecord, after: DecisionRecord, settings: Settings, *, waited: bool) -> str:
    """What became of the answer, in the words of `Rated.example`."""
    from shared_core.manager.admission import UNTRUSTED

    if before.admitted_id or after.admitted_id:
        return "there" if before.admitted_id else "added"
    if store.waiting([before.id]):
        return "waits"
    if waited:
        return "known"
    if before.refused != UNTRUSTED:
        return "none"
    return "expired" if time.time() - before.created_at >= settings.wait_ttl else "gone"


def _show(rated: Rated, settings: Settings) -> None:
    """One line, and a second one if there is something to say about the example."""
    if rated.counted:
        write(f"stored; the router learns from it ({rated.score:g} by {rated.rater})")
    else:
        write(f"not counted again: {rated.rater} has rated this answer before; if you are another rater, name --rater")
    lines = {
        "added": "the answer is an example now",
        "there": "the answer was an example already",
        "waits": f"the answer waits on for a rating of at least {settings.trust_feedback:g} to become an example",
        "known": "the answer becomes no example, because the pool has a good answer to the same question",
        "expired": (
            f"the example is gone: the answer waited for {settings.wait_ttl / DAY:g} days; where feedback comes later, "
            "raise the setting wait_ttl of your services"
        ),
        "gone": (
            "the example is gone: newer answers took its place, or it is still being redacted; where feedback comes "
            "after thousands of answers, raise the settings wait_answers and wait_mb of your services"
        ),
    }
    is_said = rated.example in ("added", "there", "waits") or rated.score >= settings.trust_feedback
    if is_said and rated.example in lines:
        write(lines[rated.example])
