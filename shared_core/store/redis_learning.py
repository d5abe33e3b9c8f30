"""What is learned, in Redis: the progress of learning, its parts, and the reports of its rounds.

A large part is written chunk by chunk under a name of its own, and read the same way, so the server is never busy with
it for long. The publication only replaces the name.

    checkpoint                      hash    version and offset of the progress, token of the call that published it, and
                                            for each part `part:<name>`: its head
    part:<key>                      hash    number → chunk; expires if it is not published
    rounds                          hash    version modulo the number that is kept → report of a round
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from shared_core.records import Checkpoint, LearnRound
from shared_core.store import codec, parts
from shared_core.store import redis_scripts as scripts
from shared_core.store.protocol import ROUNDS_KEPT, Lease, Progress, Publication
from shared_core.store.redis_wire import Argument, Wire

CONSUMED: Final = 1000  # oldest log entries that one publication checks for deletion
STAGED_MS: Final = 600_000  # how long chunks wait for the next one or for the publication
_PART: Final = "part:"


class LearningKeys:
    """What a pool holds of the learner.

    Args:
        wire: The connection.
        run_fed: Runs a script that adds to the change feed.
    """

    def __init__(self, wire: Wire, run_fed: Callable[..., Any]) -> None:
        self._wire = wire
        self._run_fed = run_fed

    def progress(self) -> Progress:
        """See `Store.progress`."""
        fields = self._wire.command("HGETALL", "checkpoint")
        found = {
            name.removeprefix(_PART.encode()).decode("utf-8", "replace"): parts.progress_of(head)
            for name, head in fields.items()
            if name.startswith(_PART.encode())
        }
        return Progress(codec.decode_place(fields.get(b"version")), codec.decode_place(fields.get(b"offset")), found)

    def checkpoint(self, part: str) -> Checkpoint | None:
        """See `Store.checkpoint`."""
        read_head = partial(self._wire.command, "HGET", "checkpoint", _PART + part)
        found: Checkpoint | None = self._wire.decoded(parts.newest, read_head, self._chunk)
        return found

    def rounds(self) -> Sequence[LearnRound]:
        """See `Store.rounds`."""
        read = (self._wire.decoded(parts.decode_round, data) for data in self._wire.command("HVALS", "rounds"))
        return sorted((report for report in read if report), key=lambda report: -report.version)[:ROUNDS_KEPT]

    def publish(self, publication: Publication, lease: Lease, oldest: float) -> bool:
        """See `Store.publish`; of the feedback, what was given until `oldest` has expired.

        The script blocks the server: 5 to 10 ms for 1000 statistics on a laptop's core. A call with more than about
        50,000 statistics comes near the socket timeout.
        """
        staged = {
            name: parts.stage(checkpoint, publication.version, self._write_chunk)
            for name, checkpoint in publication.parts.items()
        }
        report = b"" if publication.report is None else parts.encode_round(publication.report)
        args: list[Argument] = [lease.name, lease.token, *publication.expected, secrets.token_hex(8), CONSUMED, oldest]
        args += [publication.version, publication.offset, publication.version % ROUNDS_KEPT, report, len(staged)]
        for name, part in staged.items():
            args += [_PART + name, part.head, part.key, part.number, part.last]
        for (scope, example_id), learned in publication.statistics.items():
            args += [scope, example_id, codec.encode_statistics(learned)]
        return bool(self._run_fed(scripts.PUBLISH, *args))

    def _chunk(self, key: str, number: int) -> object:
        return self._wire.command("HGET", _PART + key, number)

    def _write_chunk(self, key: str, number: int, data: bytes) -> None:
        self._wire.run(scripts.STAGE, _PART + key, number, data, STAGED_MS)
