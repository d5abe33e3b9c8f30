"""From a decision to an answer: the arm is asked, the reference if that fails, and what was said is recorded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from itertools import chain

from llama_index.core.llms import LLM
from llama_index_instrumentation import get_dispatcher

from iccache_llamaindex.arms import Call, model_name
from iccache_llamaindex.messages import R, marked, outcome_of
from iccache_llamaindex.route_event import ICCacheRouteEvent
from iccache_llamaindex.streams import Heard, aup_to_first_word, up_to_first_word
from shared_core.adapters.surface import Surface
from shared_core.values import Outcome

dispatcher = get_dispatcher(__name__)


@dataclass(frozen=True, slots=True)
class Answering:
    """Answers the calls of one router; each way of calling is one function of `arms`.

    Attributes:
        surface: Retreats and records.
        arm: Gives an arm by its name.
    """

    surface: Surface
    arm: Callable[[str], LLM]

    def whole(self, call: Call, ask: Callable[[Call], R]) -> R:
        """The answer in one piece."""
        try:
            response = ask(call)
        except Exception as error:  # noqa: BLE001 - raised again if it is the reference's own
            call = self._retreat(call, error)
            response = ask(call)
        return self._finished(call, response)

    async def awhole(self, call: Call, ask: Callable[[Call], Awaitable[R]]) -> R:
        """`whole` with the arms' own async clients."""
        try:
            response = await ask(call)
        except Exception as error:  # noqa: BLE001 - raised again if it is the reference's own
            call = self._retreat(call, error)
            response = await ask(call)
        return self._finished(call, response)

    def stream(self, call: Call, ask: Callable[[Call], Generator[R, None, None]]) -> Generator[R, None, None]:
        """The answer in pieces. The arm is asked now, as LlamaIndex's own models are, so that it belongs to the trace."""
        try:
            pieces = ask(call)
        except Exception as error:  # noqa: BLE001 - raised again if it is the reference's own
            call = self._retreat(call, error)
            pieces = ask(call)
        return self._passing(call, pieces, ask)

    def _passing(
        self, call: Call, pieces: Generator[R, None, None], ask: Callable[[Call], Generator[R, None, None]]
    ) -> Generator[R, None, None]:
        lead: list[R] = []
        try:
            lead = up_to_first_word(pieces)
        except Exception as error:  # noqa: BLE001 - raised again if it is the reference's own
            call = self._retreat(call, error)
            pieces = ask(call)
        heard: Heard[R] = Heard(call.decision)
        try:
            with closing(pieces):
                for piece in chain(lead, pieces):
                    yield heard.take(piece)
                heard.ended = True
        finally:
            self._record(call, heard.outcome())

    async def astream(
        self, call: Call, ask: Callable[[Call], Awaitable[AsyncGenerator[R, None]]]
    ) -> AsyncGenerator[R, None]:
        """`stream` with the arms' own async clients."""
        try:
            pieces = await ask(call)
        except Exception as error:  # noqa: BLE001 - raised again if it is the reference's own
            call = self._retreat(call, error)
            pieces = await ask(call)
        return self._apassing(call, pieces, ask)

    async def _apassing(
        self,
        call: Call,
        pieces: AsyncGenerator[R, None],
        ask: Callable[[Call], Awaitable[AsyncGenerator[R, None]]],
    ) -> AsyncGenerator[R, None]:
        lead: list[R] = []
        try:
            lead = await aup_to_first_word(pieces)
        except Exception as error:  # noqa: BLE001 - raised again if it is the reference's own
            call = self._retreat(call, error)
            pieces = await ask(call)
        heard: Heard[R] = Heard(call.decision)
        try:
            async with aclosing(pieces):
                for piece in lead:
                    yield heard.take(piece)
                async for piece in pieces:
                    yield heard.take(piece)
                heard.ended = True
        finally:
            self._record(call, heard.outcome())

    def _finished(self, call: Call, response: R) -> R:
        provenance = self._record(call, outcome_of(response))
        return marked(response, provenance)

    def _retreat(self, call: Call, error: Exception) -> Call:
        """The same call to the reference, after another arm failed before its first word; else raises `error`."""
        return replace(call, decision=self.surface.retreat(call.decision, error), arm=self.arm(self.surface.reference))

    def _record(self, call: Call, outcome: Outcome | None) -> dict[str, object]:
        """Hand the answer on to be stored, and tell observers; returns how it came about."""
        self.surface.record(call.decision, outcome, model_name(call.arm))
        provenance = call.decision.provenance()
        dispatcher.event(ICCacheRouteEvent(provenance=provenance))
        return provenance
