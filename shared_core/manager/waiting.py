"""Answers that wait in the store for good feedback, which may come in any process that shares it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from shared_core.manager import Meeting
from shared_core.records import Average, Example, Feedback, WaitingAnswer
from shared_core.settings import Settings
from shared_core.store.protocol import Admission, Rating, Store
from shared_core.values import Clock


class WaitingAnswers:
    """The waiting answers of one store.

    Args:
        store: Holds them.
        settings: `trust_feedback` is used.
        clock: Seconds since the epoch.
    """

    def __init__(self, store: Store, settings: Settings, clock: Clock) -> None:
        self._store = store
        self._trust = settings.trust_feedback
        self._clock = clock

    def is_good(self, rating: Feedback | None) -> bool:
        """True for a rating that admits an answer; a comparison does not."""
        return rating is not None and not rating.than and rating.score >= self._trust

    def rated(self, ratings: Iterable[Feedback | None]) -> Mapping[str, WaitingAnswer]:
        """The answers that the good ones among these ratings admit, by decision."""
        good = {rating.decision_id for rating in ratings if rating is not None and self.is_good(rating)}
        return self._store.waiting(sorted(good)) if good else {}

    def met(self, meetings: Sequence[Meeting]) -> Sequence[Feedback]:
        """The good ratings of answers that wait: answer and rating were stored at the same time.

        Args:
            meetings: Answers that wait since now, and good ratings that found no waiting answer.
        """
        good = {given.decision_id: given for given in meetings if isinstance(given, Feedback)}
        answered = [given for given in meetings if isinstance(given, str)]
        for decision_id, ratings in (self._store.ratings(answered) if answered else {}).items():
            good.update((decision_id, rating.feedback) for rating in ratings if self.is_good(rating.feedback))
        waiting = self._store.waiting(list(good)) if good else {}
        return [rating for decision_id, rating in good.items() if decision_id in waiting]

    def admissions(self, answers: Sequence[WaitingAnswer]) -> Sequence[Admission]:
        """What makes examples of answers. One without an example, if the pool has got another embedder meanwhile."""
        tags = {answer.embedder for answer in answers}
        ours = {tag for tag in tags if self._store.claim("embedder", tag) == tag}
        now = self._clock()
        return [_admission(answer, now, fits=answer.embedder in ours) for answer in answers]

    def credited(self, admissions: Sequence[Admission]) -> Sequence[Admission]:
        """The same, each example with the ratings of its answer that the learner has read.

        The learner credits later ones, because the decision then names the example. One that it is just reading counts
        for neither.
        """
        ratings = self._store.ratings([admission.decision_id for admission in admissions]) if admissions else {}
        return [_credited(admission, ratings.get(admission.decision_id, ())) for admission in admissions]


def _admission(answer: WaitingAnswer, now: float, *, fits: bool) -> Admission:
    example = Example(replace(answer.entry, created_at=now), answer.texts, answer.vector)
    return Admission(answer.decision_id, answer.entry.scope, example if fits else None, claims=True)


def _credited(admission: Admission, ratings: Sequence[Rating]) -> Admission:
    if admission.example is None or not ratings:
        return admission
    quality, entry = Average(), admission.example.entry
    for rating in ratings:
        if rating.is_learned and 0.0 <= rating.feedback.score <= 1.0:
            quality = quality.update(rating.feedback.score)
    entry = replace(entry, statistics=replace(entry.statistics, quality=quality))
    return replace(admission, example=replace(admission.example, entry=entry))
