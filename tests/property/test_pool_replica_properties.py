"""Whatever is put and deleted: no item crosses scope or task, and results equal an exact search."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.pool_world import example, nearest, units, world
from tests.steps import result

VECTORS = units(40, 8, seed=21)
PLACES = [(scope, task) for scope in ("s", "s2") for task in ("t", "")]

steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "delete", "clear", "refresh", "warm", "maintain"]),
        st.sampled_from(PLACES),
        st.integers(0, 9),
        st.integers(0, 39),
    ),
    max_size=40,
)


@given(steps, st.integers(0, 39))
def test_every_place_holds_exactly_its_own(steps, query):
    known: dict[tuple[str, str], tuple[str, int]] = {}
    with world() as w:
        for step, (scope, task), name, vector in steps:
            if step == "put":
                w.store.put([example(f"e{name}", VECTORS[vector], scope=scope, task=task, quality=vector / 40)])
                known[scope, f"e{name}"] = (task, vector)
            elif step == "delete":
                w.store.delete(scope, [f"e{name}"])
                known.pop((scope, f"e{name}"), None)
            elif step == "clear" and name == 0:
                w.store.clear(scope)
                known = {key: value for key, value in known.items() if key[0] != scope}
            elif step == "refresh":
                w.replica.refresh()
            elif step == "warm":
                w.replica.warm(scope)
            elif step == "maintain":
                w.replica.maintain()
        w.replica.refresh()
        for scope, task in PLACES:
            w.replica.warm(scope)
            own = {i: v for (s, i), (t, v) in known.items() if (s, t) == (scope, task)}
            found = result(w.replica.candidates(scope, task, VECTORS[query], 6))
            wanted = nearest({i: VECTORS[v] for i, v in own.items()}, VECTORS[query], 6)
            assert set(found.ids) <= set(own)
            assert found.similarity == pytest.approx([s for _, s in wanted], abs=1e-5)
            assert found.statistics["quality"] == pytest.approx([own[i] / 40 for i in found.ids])
            assert all(np.array_equal(v, VECTORS[own[i]]) for i, v in zip(found.ids, found.vectors))
        for scope in ("s", "s2"):
            assert w.replica.size(scope) == sum(s == scope for s, _ in known)
