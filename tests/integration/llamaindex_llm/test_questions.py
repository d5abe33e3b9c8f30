"""The question of a query engine is the query, without its documents."""

from __future__ import annotations

import pytest
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import NodeWithScore, TextNode

from tests.integration.llamaindex_llm.calls import queries, user


def nodes(*texts):
    return [NodeWithScore(node=TextNode(text=text), score=1.0) for text in texts]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("mode", ["compact", "tree_summarize", "simple_summarize"])
async def test_a_query_engines_question_is_the_query_not_its_documents(build, store, mode, streaming):
    model = build()
    synthesizer = get_response_synthesizer(llm=model, response_mode=mode, streaming=streaming)
    str(synthesizer.synthesize("how warm is it?", nodes("the kitchen has 30 degrees")))
    await synthesizer.asynthesize("how cold is it?", nodes("the cellar has 3 degrees")) if not streaming else None
    assert model.flush(10)
    wanted = {"how warm is it?"} if streaming else {"how warm is it?", "how cold is it?"}
    assert queries(store) == wanted


def test_a_question_does_not_outlive_its_query(build, store):
    model = build()
    get_response_synthesizer(llm=model, response_mode="compact").synthesize("warm?", nodes("30 degrees"))
    model.chat([user("is it warm? and other things")])
    assert model.flush(10)
    assert queries(store) == {"warm?", "is it warm? and other things"}
