"""Feedback on the answers of `ICCacheChatModel`."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage

from shared_core.errors import ConfigurationError, NotFromICCache
from tests.integration.langchain_chat_model.calls import EXAMPLES, merged, provenance, run, streamed_by_handler


async def test_an_answer_is_rated_by_message_run_or_decision(helped, store):
    answers = [
        helped.invoke("heat the kitchen", {"run_id": run(1)}),
        merged(list(helped.stream("heat the kitchen", {"run_id": run(2)}))),
        await streamed_by_handler(helped, "heat the kitchen", {"run_id": run(3)}),
        await helped.ainvoke("heat the kitchen"),
    ]
    helped.record_feedback(run(1), 0.1)
    helped.record_feedback(str(run(2)), 0.2)
    helped.record_feedback(run(3), 0.3)
    helped.record_feedback(answers[3], 0.4)
    assert helped.flush(10)
    given = {f.decision_id: f.score for _, f in store.feedback(0) if f.rater == "user"}
    assert given == {provenance(a)["decision_id"]: score for a, score in zip(answers, (0.1, 0.2, 0.3, 0.4))}
    assert set(store.decisions(list(given))) == set(given)
    with pytest.raises(ConfigurationError):
        helped.record_feedback(answers[0], 7)
    with pytest.raises(NotFromICCache):
        helped.record_feedback(AIMessage("not ours"), 1.0)


def test_a_rating_in_another_worker_makes_an_example_of_the_small_models_answer(build, store):
    here, there = (build(task="t", reward=lambda request, answer: 0.6) for _ in range(2))
    here.add_examples(EXAMPLES)
    answer = here.invoke("heat the attic now", {"run_id": run(1)})
    assert provenance(answer)["arm"] == "small"
    assert here.flush(10)
    before = store.count("default")
    there.record_feedback(run(1), 1.0)
    assert there.flush(10)
    admitted = store.decisions([run(1).hex])[run(1).hex].admitted_id
    assert store.count("default") == before + 1
    assert store.texts("default", [admitted])[admitted].answer == answer.text
