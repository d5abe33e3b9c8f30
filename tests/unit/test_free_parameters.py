"""Parameters that route, tag, bill or time a call leave its task as it is, on every surface."""

import pytest
from langchain_openai import ChatOpenAI

from iccache_langchain.calls import FREE as LANGCHAIN
from iccache_langchain.llm_string import parse
from iccache_llamaindex.llm import FREE as LLAMAINDEX
from shared_core.adapters.parameters import fingerprint_of, form_of

FREE = {
    "extra_headers": {"X-Request-Id": "1"},
    "extra_query": {"trace": "1"},
    "metadata": {"run": "1"},
    "prompt_cache_key": "user-1",
    "prompt_cache_retention": "24h",
    "safety_identifier": "user-1",
    "service_tier": "flex",
    "store": True,
    "timeout": 3.0,
    "user": "user-1",
}


@pytest.mark.parametrize("name", FREE)
def test_a_parameter_that_shapes_no_answer_names_no_task(name):
    given = {name: FREE[name]}
    assert form_of(given, free=LANGCHAIN) == form_of(given, free=LLAMAINDEX) == ""
    llm = ChatOpenAI(model="big", api_key="none", base_url="http://127.0.0.1:9/v1")
    assert parse(llm._get_llm_string(stop=None, **given)).plain
    assert fingerprint_of(given) != fingerprint_of({})


@pytest.mark.parametrize(
    "given", [{"extra_body": {"guided_json": {}}}, {"modalities": ["audio"]}, {"web_search": {"on": 1}}]
)
def test_what_may_bind_the_answer_names_one(given):
    assert form_of(given, free=LANGCHAIN) != ""
    assert form_of(given, free=LLAMAINDEX) != ""
