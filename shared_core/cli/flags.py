"""Typer's command and group, whose help names no type beside a flag, because a flag takes no value."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


def _plain(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""  # newer releases of Typer would show <bool>
    return params


class Command(TyperCommand):
    """A command with plain flags, ``--help`` included."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, as the help and the parser see them."""
        return _plain(super().get_params(ctx))


class Group(TyperGroup):
    """A group with plain flags, ``--help`` included."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, as the help and the parser see them."""
        return _plain(super().get_params(ctx))
