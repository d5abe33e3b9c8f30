"""Copies and serialised forms of `ICCacheLLM` share the pool and hold no key."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from iccache_llamaindex import ICCacheLLM, ICCacheRouteEvent
from shared_core.errors import ConfigurationError
from tests.embedding import Words
from tests.integration.llamaindex_llm.calls import KEY, WAYS, City, ask, provenance, user


async def test_no_key_leaves_in_any_form(helped, heard, caplog):
    for way in WAYS:
        await ask(helped, way, "heat the kitchen now")
    structured = helped.as_structured_llm(City)
    forms = [
        helped.to_dict(),
        helped.to_json(),
        helped.model_dump(),
        helped.model_dump_json(),
        helped.dict(),
        repr(helped),
        str(helped),
        structured.to_dict(),
        repr(structured),
        helped.metadata.model_dump(),
        helped.bind(iccache_scope="a").to_dict(),
        [event.model_dict for event in heard if hasattr(event, "model_dict")],
        [event.model_dump() for event in heard if isinstance(event, ICCacheRouteEvent)],
        caplog.text,
    ]
    assert helped.arms["small"].to_dict()["api_key"] == KEY  # there is something to leak
    assert KEY not in str(forms)
    assert helped.to_dict()["class_name"] == ICCacheLLM.class_name() == "ICCacheLLM"


def test_from_dict_takes_the_arms_again(build, arm, store):
    data = json.loads(build(scope="a", task="t", system_prompt="be brief").to_json())
    with pytest.raises(ConfigurationError, match="arms are not serialised"):
        ICCacheLLM.from_dict(data)
    arms = {name: arm(name) for name in ("small", "large")}
    again = ICCacheLLM.from_dict(data, arms=arms, costs={"small": 0.1}, store=store, embedder=Words())
    assert (again.scope, again.task, again.system_prompt, again.reference) == ("a", "t", "be brief", "large")
    again.close()


def test_copies_share_the_pool_and_do_not_close_it(helped, store):
    for one in (copy.copy(helped), copy.deepcopy(helped), helped.model_copy(deep=True), helped.bind()):
        one.close()
        assert provenance(one.chat([user("heat the kitchen now")]))["arm"] == "small"
        assert one.engine is helped.engine
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(helped)
