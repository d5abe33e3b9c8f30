"""How parts of the learner are cut into chunks, and that no damage of them is taken for a checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared_core.records import Checkpoint
from shared_core.store import parts
from shared_core.store.fields import Unreadable
from shared_core.store.parts import ALIGNMENT, TYPES, layout, newest, stage

text = st.text(st.characters(codec=None), max_size=20)
arrays = st.sampled_from(sorted(TYPES)).flatmap(
    lambda kind: hnp.arrays(np.dtype(kind), hnp.array_shapes(min_dims=0, min_side=0, max_dims=3))
)
plain_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e30, 1e30) | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=6,
)
checkpoints = st.builds(
    Checkpoint,
    st.integers(0, 2**53 - 1),
    st.integers(0, 2**53 - 1),
    st.dictionaries(text, arrays, max_size=4),
    st.dictionaries(text, plain_json, max_size=3),
)


class Held:
    """A place for one part."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.chunks: dict[tuple[str, int], bytes] = {}
        staged = stage(checkpoint, checkpoint.version, self.write)
        self.write(staged.key, staged.number, staged.last)
        self.head: bytes | None = staged.head

    def write(self, key: str, number: int, data: bytes) -> None:
        assert (key, number) not in self.chunks
        self.chunks[key, number] = data

    def read(self) -> Checkpoint | None:
        return newest(lambda: self.head, lambda key, number: self.chunks.get((key, number)))


def contents(checkpoint: Checkpoint) -> dict[str, Any]:
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in checkpoint.arrays.items()}


@given(checkpoints, st.sampled_from([1, 7, 64, 1000]))
def test_checkpoints_come_back_to_the_last_bit(checkpoint: Checkpoint, size: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parts, "CHUNK_BYTES", size)
        patched.setattr(parts, "PAUSE", 0.0)
        held = Held(checkpoint)
        assert all(len(data) <= size for data in held.chunks.values())
        found = held.read()
    assert found == checkpoint
    assert contents(found) == contents(checkpoint)


@given(checkpoints, st.randoms(use_true_random=False))
def test_no_damage_passes(checkpoint: Checkpoint, random: Any) -> None:
    held = Held(checkpoint)
    where = random.choice([*held.chunks, "head"])
    before = held.head if where == "head" else held.chunks[where]
    assert before is not None
    at = random.randrange(len(before))
    after = random.choice(
        [before[:at], before[:at] + bytes([random.randrange(256)]) + before[at + 1 :], before + b"\x00", b"", b"{}"]
    )
    assume(after != before)
    if where == "head":
        held.head = after
    else:
        held.chunks[where] = after
    try:
        found = held.read()
    except Unreadable:
        return
    assert found == checkpoint  # a changed letter of an unknown field or of the key of an empty remainder
    assert contents(found) == contents(checkpoint)


def test_nothing_is_read_where_nothing_is() -> None:
    held = Held(Checkpoint(1, 2))
    held.head = None
    assert held.read() is None


def test_arrays_are_aligned_and_not_copied() -> None:
    weights = np.zeros((300, 7), np.float32)
    pieces = layout(Checkpoint(1, 0, {"b": np.ones(3, bool), "w": weights, "d": np.zeros(5)}))
    assert len(pieces[0]) % ALIGNMENT == 0
    assert [len(piece) for piece in pieces[1:]] == [40, 300 * 7 * 4, 3]
    assert np.shares_memory(np.asarray(pieces[2]), weights)
    found = Held(Checkpoint(1, 0, {"b": np.ones(3, bool), "w": weights, "d": np.zeros(5)})).read()
    assert found is not None
    assert all(array.flags.aligned and array.flags.writeable for array in found.arrays.values())


@pytest.mark.parametrize(
    "described",
    [
        None,
        [["w"]],
        [["w", "|O", [1]]],
        [["w", "<f4", [-1]]],
        [["w", "<f4", [True]]],
        [["w", "<f4", [2**52]]],
        [["w", "<f4", [0, 2**52, 2**52]]],
        [["w", "<f4", [1] * 70]],
        [["w", "<f4", "3"]],
        [[1, "<f4", [1]]],
    ],
)
def test_a_description_of_nonsense_is_unreadable(described: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else may have written it, with a checksum that is right."""
    monkeypatch.setattr(
        parts, "layout", lambda _: [memoryview(parts.dump({"meta": {}, "arrays": described}) + b"\n" + bytes(64))]
    )
    with pytest.raises(Unreadable):
        Held(Checkpoint(1, 0)).read()
