"""A streamed answer as it passes by: marked piece by piece, and put together for the record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Generic

from iccache_llamaindex.messages import R, Told, marked, outcome_of, says_something
from shared_core.values import Decision, Outcome


class Heard(Generic[R]):
    """The pieces of one answer. Set `ended` once the arm has sent its last."""

    def __init__(self, decision: Decision) -> None:
        self.ended = False
        self._provenance = decision.provenance()
        self._last: R | None = None
        self._told = Told()

    def take(self, piece: R) -> R:
        """The piece to pass on. Each is marked, because each holds the answer so far and is read for itself."""
        self._last = piece
        self._told = self._told.then(Told.by(piece))
        return marked(piece, self._provenance)

    def outcome(self) -> Outcome | None:
        """How the answer ended; None if nothing was said.

        A connection that is cut looks like the end of a stream. So an arm must say why it stopped.
        """
        if self._last is None:
            return None
        outcome = outcome_of(self._last, self._told)
        has_ended = self.ended and self._told.reason is not None
        return replace(outcome, finished=outcome.finished and has_ended, broken_off=not self.ended)


def up_to_first_word(pieces: Iterator[R]) -> list[R]:
    """Take pieces until one says something: until then another arm may answer instead."""
    lead = []
    for piece in pieces:
        lead.append(piece)
        if says_something(piece):
            break
    return lead


async def aup_to_first_word(pieces: AsyncIterator[R]) -> list[R]:
    """`up_to_first_word` of an async stream."""
    lead = []
    async for piece in pieces:
        lead.append(piece)
        if says_something(piece):
            break
    return lead
