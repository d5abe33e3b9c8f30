"""Feedback on the answers of `ICCache`."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage

from shared_core.errors import ConfigurationError, NotFromICCache
from tests.integration.langchain_cache.calls import provenance


class TestFeedback:
    @pytest.mark.parametrize("rated", ["the first answer", "the hit", "its id"])
    def test_a_poor_answer_is_not_served_again(self, llm, server, cache, rated):
        first, hit = llm.invoke("hi"), llm.invoke("hi")
        cache.record_feedback(
            {"the first answer": first, "the hit": hit}.get(rated, provenance(hit)["decision_id"]), 0.0
        )
        assert cache.engine.flush()
        assert provenance(llm.invoke("hi"))["tier"] == "model"
        assert server.count() == 2

    def test_a_good_answer_stays(self, llm, server, cache):
        cache.record_feedback(llm.invoke("hi"), 1.0)
        assert cache.engine.flush()
        llm.invoke("hi")
        assert server.count() == 1

    def test_a_score_or_message_that_makes_no_sense_is_refused(self, llm, cache):
        with pytest.raises(ConfigurationError):
            cache.record_feedback(llm.invoke("hi"), 7)
        with pytest.raises(NotFromICCache):
            cache.record_feedback(AIMessage("from elsewhere"), 1.0)
