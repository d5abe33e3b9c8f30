"""A router with one Bayesian linear head per arm, Thompson sampling, a quality guard and exploration."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import numpy as np
from typing_extensions import override

from shared_core.errors import ConfigurationError
from shared_core.guard import Steps, immediately
from shared_core.records import Checkpoint
from shared_core.router import Router, state
from shared_core.router.bandit import (
    KNOWN_AFTER,
    Array,
    Head,
    Posterior,
    exploration_shares,
    guard,
    predict,
    solve,
    thompson,
    win_probabilities,
)
from shared_core.router.features import FEATURES, contexts
from shared_core.settings import Settings
from shared_core.telemetry import Counters, get_logger
from shared_core.text import digest
from shared_core.values import Arm, ArmScore, Request, Route, Selection

log = get_logger("router")


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The state from one checkpoint; replaced as a whole, so each request sees one version."""

    heads: tuple[Head, ...]
    shares: tuple[float, ...]  # exploration share of each arm, of the requests with examples
    rated: int
    version: int


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """The evaluation of the arms for one request; every tuple has one entry per arm.

    Plain numbers, because there are few arms: a NumPy call takes longer than the loop that it replaces.
    """

    contexts: tuple[Array, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]
    samples: tuple[float, ...]
    scores: tuple[float, ...]
    eligible: tuple[bool, ...]
    shares: tuple[float, ...]


class LinearRouter(Router):
    """Chooses an arm by Thompson sampling among those that pass the quality guard (paper §4.2).

    ``score_i = sample_i - cost_weight · cost_i``. Thread-safe; computes without a step.

    Args:
        arms: The candidate models.
        reference: Name of the arm whose quality is the yardstick; always eligible.
        settings: `quality_target`, `confidence`, `cost_weight`, `explore` and `seed` are used.
        counters: Counts ``router.state_ignored``.
        can_learn: False if no feedback, reward function or judge is expected. Until an answer is rated, the reference
            then answers everything, and one warning is logged.

    Raises:
        ConfigurationError: Two arms share a name, or the reference is not one of them.
    """

    may_block = False

    def __init__(
        self, arms: Sequence[Arm], reference: str, settings: Settings, counters: Counters, *, can_learn: bool = True
    ) -> None:
        names = [arm.name for arm in arms]
        if len(set(names)) < len(names):
            raise ConfigurationError(f"two arms share a name: {names}; give each arm its own name")
        if reference not in names:
            raise ConfigurationError(f"the reference {reference!r} is not one of the arms {names}")
        self._arms = tuple(arms)
        self._reference = names.index(reference)
        self._costs = tuple(settings.cost_weight * arm.cost for arm in arms)
        self._unexplored = (0.0,) * len(arms)
        self._settings = settings
        self._counters = counters
        self._can_learn = can_learn
        self._warning = threading.Lock()
        self._warned = False
        self._snapshot = self._snapshot_of({}, 0)

    @override
    def adopt(self, checkpoint: Checkpoint) -> None:
        """Entries for other features and unusable ones are ignored; their arms start from the prior."""
        posteriors, ignored = state.read(checkpoint)
        if ignored:
            self._counters.count("router.state_ignored", ignored)
        self._snapshot = self._snapshot_of(posteriors, checkpoint.version)

    @override
    def route(self, request: Request, selection: Selection, decision_id: str) -> Steps[Route]:
        return immediately(self._route(request, selection, decision_id))

    @override
    def without_examples(self, request: Request) -> Route:
        """An arm is known from `KNOWN_AFTER` rewards. The request has no vector, so its length alone tells it apart."""
        snapshot = self._snapshot
        seen = contexts(request, Selection(), self._arms)
        eligible = self._eligible(snapshot, *_predictions(snapshot, seen))
        among = [
            i
            for i, (may, head) in enumerate(zip(eligible, snapshot.heads, strict=True))
            if may and (i == self._reference or head.count >= KNOWN_AFTER)
        ]
        chosen = min(among, key=lambda i: self._arms[i].cost)
        name = self._arms[chosen].name if chosen != self._reference else "no cheaper arm"
        reason = f"{name} is known to be good enough without examples"
        return Route(self._arms[chosen].name, reason=reason, version=snapshot.version)

    def _route(self, request: Request, selection: Selection, decision_id: str) -> Route:
        snapshot = self._snapshot
        rng = _generator(self._settings.seed, decision_id)
        turn = rng.random()
        evaluation = self._evaluate(snapshot, request, selection, rng)
        explored_arm = _explored_arm(evaluation.shares, turn)
        explored = explored_arm is not None
        chosen = _best_arm(evaluation) if explored_arm is None else explored_arm
        propensities = self._propensities(evaluation)
        return Route(
            arm=self._arms[chosen].name,
            scores=self._explain(evaluation, propensities),
            propensity=propensities[chosen],
            explored=explored,
            reason=self._reason(snapshot, evaluation, chosen, explored),
            features=tuple(evaluation.contexts[chosen].tolist()),
            version=snapshot.version,
            features_name=FEATURES,
        )

    def _snapshot_of(self, posteriors: Mapping[str, Posterior], version: int) -> _Snapshot:
        heads = tuple(
            solve(posteriors.get(arm.name) or state.initial(reference=i == self._reference))
            for i, arm in enumerate(self._arms)
        )
        explorable = [arm.uses_examples and i != self._reference for i, arm in enumerate(self._arms)]
        shares = exploration_shares([head.count for head in heads], explorable, self._settings.explore)
        return _Snapshot(heads, shares, sum(p.count for p in posteriors.values()), version)

    def _evaluate(
        self, snapshot: _Snapshot, request: Request, selection: Selection, rng: np.random.Generator
    ) -> _Evaluation:
        seen = contexts(request, selection, self._arms)
        means, stds = _predictions(snapshot, seen)
        if not all(map(math.isfinite, means + stds)):
            raise ValueError("a similarity, a utility or the embedding of this request is not a finite number")
        samples = thompson(means, stds, rng)
        eligible = self._eligible(snapshot, means, stds)
        scores = tuple(sample - cost for sample, cost in zip(samples, self._costs, strict=True))
        return _Evaluation(seen, means, stds, samples, scores, eligible, self._shares(snapshot, selection))

    def _eligible(self, snapshot: _Snapshot, means: tuple[float, ...], stds: tuple[float, ...]) -> tuple[bool, ...]:
        if snapshot.rated:
            return guard(means, stds, self._reference, self._settings.quality_target, self._settings.confidence)
        return tuple(i == self._reference for i in range(len(means)))  # a prior is not evidence

    def _shares(self, snapshot: _Snapshot, selection: Selection) -> tuple[float, ...]:
        if not snapshot.rated and not self._can_learn:
            self._warn()
            return self._unexplored
        shown = (selection.for_arm(arm.name) for arm in self._arms)
        return tuple(share if examples else 0.0 for share, examples in zip(snapshot.shares, shown, strict=True))

    def _propensities(self, evaluation: _Evaluation) -> tuple[float, ...]:
        """The probability of each arm: its exploration share, and what the shares leave for it to win."""
        among = [i for i, may in enumerate(evaluation.eligible) if may]
        wins = win_probabilities(
            [evaluation.means[i] - self._costs[i] for i in among], [evaluation.stds[i] for i in among]
        )
        rest, propensities = 1.0 - sum(evaluation.shares), list(evaluation.shares)
        for i, win in zip(among, wins, strict=True):
            propensities[i] += rest * win
        return tuple(propensities)

    def _explain(self, evaluation: _Evaluation, propensities: tuple[float, ...]) -> tuple[ArmScore, ...]:
        rows = zip(
            *(
                self._arms,
                evaluation.means,
                evaluation.stds,
                evaluation.samples,
                evaluation.eligible,
                evaluation.scores,
                propensities,
            ),
            strict=True,
        )
        return tuple(
            ArmScore(arm.name, mean, std, sample, arm.cost, eligible, score, propensity)
            for arm, mean, std, sample, eligible, score, propensity in rows
        )

    def _reason(self, snapshot: _Snapshot, evaluation: _Evaluation, chosen: int, explored: bool) -> str:
        name, reference = self._arms[chosen].name, self._arms[self._reference].name
        if explored:
            share, count = evaluation.shares[chosen], snapshot.heads[chosen].count
            return f"{name} gets {share:.1%} of the requests with examples, to learn about it ({count} rewards so far)."
        if not snapshot.rated:
            return f"Nothing has been learned from ratings yet, so the reference {reference} answers."
        bar = f"{self._settings.quality_target:.0%} of {reference}'s expected {evaluation.means[self._reference]:.2f}"
        if sum(evaluation.eligible) == 1:
            return f"No other arm reaches {bar} with enough confidence."
        mean, std = evaluation.means[chosen], evaluation.stds[chosen]
        if chosen == self._reference:
            return f"{name} scored best, cost counted, among the arms that reach {bar} with enough confidence."
        return f"{name} is expected to reach {mean:.2f} ± {std:.2f}, enough for {bar}, and scored best, cost counted."

    def _warn(self) -> None:
        with self._warning:
            if self._warned or len(self._arms) == 1:  # with one arm there is nothing to learn
                return
            self._warned = True
        log.warning(
            "there is no feedback, reward function or judge, so IC-Cache cannot learn which arm is good enough and the "
            "reference %r answers everything; pass reward=…, or call record_feedback",
            self._arms[self._reference].name,
        )


def _predictions(snapshot: _Snapshot, seen: Sequence[Array]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each arm's reward in its context."""
    means, stds = zip(*(predict(head, x) for head, x in zip(snapshot.heads, seen, strict=True)), strict=True)
    return means, stds


def _explored_arm(shares: Sequence[float], turn: float) -> int | None:
    """The arm whose share contains `turn`, in [0, 1); the shares are laid end to end from 0."""
    return next((i for i, end in enumerate(accumulate(shares)) if turn < end), None)


def _best_arm(evaluation: _Evaluation) -> int:
    """The eligible arm with the greatest score; the first of equal ones."""
    among = [i for i, may in enumerate(evaluation.eligible) if may]
    return max(among, key=evaluation.scores.__getitem__)


class _Stream(threading.local):
    """One generator per thread, because creating one draws system entropy, which a keyed stream never uses."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(key=0)
        self.generator = np.random.Generator(self.philox)
        self.start = self.philox.state


_stream: Final = _Stream()


def _generator(seed: int, decision_id: str) -> np.random.Generator:
    """The decision's own random stream, independent of other requests and threads.

    It is that of ``Philox(key=…)`` from its start; valid until this thread's next call.
    """
    key = np.frombuffer(bytes.fromhex(digest([seed, decision_id])[:32])[::-1], "<u8")  # the hex digits as one number
    start = _stream.start
    _stream.philox.state = {**start, "state": {"counter": start["state"]["counter"], "key": key}}
    return _stream.generator
