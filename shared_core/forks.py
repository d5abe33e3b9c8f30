"""Renews in a forked child what belongs to its parent: locks that other threads held, and counts of running calls."""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol


class Inherited(Protocol):
    """Has a state that a forked child must not go on with."""

    def after_fork(self) -> None:
        """Renew the state. Called in the child, in its only thread, before anything else runs there."""


_inherited: Final[weakref.WeakSet[Inherited]] = weakref.WeakSet()


def renew_in_children(state: Inherited) -> None:
    """Call ``state.after_fork()`` in each child that this process forks while `state` lives."""
    _inherited.add(state)


def _renew() -> None:
    for state in list(_inherited):
        state.after_fork()


if hasattr(os, "register_at_fork"):  # there is no fork on Windows
    os.register_at_fork(after_in_child=_renew)
