"""What every surface does around a call of its framework: decide before it, retreat where an arm fails, record after."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import uuid4

from shared_core.engine import Engine
from shared_core.errors import SettingIsWrong
from shared_core.values import Decision, Insertion, Outcome, Request, Route


@dataclass(frozen=True, slots=True)
class Surface:
    """One routing surface over an engine. The adapter reads its framework's call, and calls the arm's model itself.

    Attributes:
        engine: Decides, and keeps what comes of it.
        reference: The arm that answers whenever nothing can be decided.
    """

    engine: Engine
    reference: str

    def decide(self, read: Callable[[], Request], identity: str | None = None, *, bypass: str = "") -> Decision:
        """Which arm answers, and with which examples.

        Args:
            read: Makes the Request of the call. If it fails, the reference answers, and it is counted.
            identity: The decision's id; None draws one.
            bypass: Why this call is not routed, if it is not: then the reference answers and nothing is kept.

        Raises:
            SettingIsWrong: The call names a scope or task that cannot be used: a misuse, not a failure.
        """
        identity = identity or uuid4().hex
        try:
            request = read()
        except SettingIsWrong:
            raise
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self.engine.counters.add("fallback.unreadable_call")
            nothing = Request((), "", store=False)
            return self._unrouted(nothing, identity, f"fallback: {type(error).__name__}: {error}", fallback=True)
        if bypass:
            self.engine.counters.add("bypass.not_routed")
            return self._unrouted(replace(request, store=False), identity, bypass)
        return self.engine.decide(request, identity)

    def retreat(self, decision: Decision, error: Exception) -> Decision:
        """The same call for the reference, after another arm failed before its first word.

        Raises:
            Exception: `error`, if it was the reference that failed.
        """
        if decision.arm == self.reference:
            raise error
        self.engine.counters.add("fallback.arm_failed")
        route = Route(self.reference, reason=f"fallback: {decision.arm} failed: {type(error).__name__}")
        return replace(decision, route=route, insertion=Insertion(), fallback=True)

    def record(self, decision: Decision, outcome: Outcome | None, writer: str) -> None:
        """Hand what was answered to the engine's writer; `writer` names the model where the answer does not."""
        if outcome is not None:
            self.engine.submit_record(decision, replace(outcome, writer=outcome.writer or writer))

    def _unrouted(self, request: Request, identity: str, reason: str, *, fallback: bool = False) -> Decision:
        route = Route(self.reference, reason=reason)
        return Decision(identity, request, route, fallback=fallback, created_at=time.time())
