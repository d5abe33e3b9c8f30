"""Feedback on the answers of `ICCacheLLM`."""

from __future__ import annotations

import pytest
from llama_index.core.llms import MockLLM

from shared_core.errors import ConfigurationError, NotFromICCache
from tests.integration.llamaindex_llm.calls import ask, provenance, user


async def test_an_answer_is_rated_by_response_or_decision(helped, store):
    answers = [await ask(helped, way, "heat the kitchen now") for way in ("chat", "acomplete", "stream_chat")]
    for answer, score in zip(answers[:2], (0.1, 0.2)):
        helped.record_feedback(answer, score)
    helped.record_feedback(provenance(answers[2])["decision_id"], 0.3)
    assert helped.flush(10)
    given = {f.decision_id: f.score for _, f in store.feedback(0) if f.rater == "user"}
    assert given == {provenance(a)["decision_id"]: score for a, score in zip(answers, (0.1, 0.2, 0.3))}
    with pytest.raises(ConfigurationError):
        helped.record_feedback(answers[0], 7)
    with pytest.raises(NotFromICCache, match="ICCacheRouteEvent"):
        helped.record_feedback(MockLLM().chat([user("x")]), 1.0)
