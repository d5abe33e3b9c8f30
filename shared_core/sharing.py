"""Objects that hold what only one process can use: an open store, connections, weights."""

from __future__ import annotations

from typing import ClassVar, NoReturn, Self

from shared_core.errors import CannotBePickled


class Shared:
    """An object whose copies are the object itself, and which cannot be pickled."""

    because: ClassVar[str] = (
        "it holds an open store; build it in each process, with the same store= URL to share a pool in Redis or in a "
        "SQLite file"
    )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object] | None = None) -> Self:
        return self.__copy__()

    def __getstate__(self) -> NoReturn:
        raise CannotBePickled(self, self.because)
