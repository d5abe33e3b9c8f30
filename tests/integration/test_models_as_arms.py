"""A model of transformers as an arm of both frameworks: shown examples, whole and streamed, and asked as a `Model`.

The tiny random model runs in the fast suite, SmolLM2 in the slow one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from llama_index.core.base.llms.types import ChatMessage

import iccache_langchain
import iccache_llamaindex
from iccache_langchain import ChatFromModel, HuggingFaceModel, ICCacheChatModel
from iccache_llamaindex import ICCacheLLM, LLMFromModel
from shared_core.inference.serving import packaged_gguf
from shared_core.values import Message
from tests.embedding import Words
from tests.models import ScriptedStream
from tests.tiny_model import write_tiny_model

EXAMPLES = [("heat the kitchen", "climate kitchen"), ("heat the bathroom", "climate bathroom")]
ASKED = "heat the cellar"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return HuggingFaceModel(write_tiny_model(tmp_path_factory.mktemp("tiny")), device="cpu")


@pytest.fixture(scope="module")
def smollm2():
    gguf = Path(packaged_gguf())
    model = HuggingFaceModel(gguf.parent, gguf_file=gguf.name, dtype="float32", device="cpu")
    model.load()
    return model


@pytest.fixture(
    params=["tiny", pytest.param("smollm2", marks=[pytest.mark.slow, pytest.mark.timeout(600)])],
)
def small(request):
    """The small arm's model, which answers whatever the examples concern."""
    return request.getfixturevalue(request.param)


OPTIONS = {
    "reference": "large",
    "costs": {"small": 0.1},
    "store": "memory://",
    "embedder": Words(),
    "reward": lambda request, answer: 1.0,
    "background": False,
    "relevance_quantile": 0.0,
    "explore": 1.0,
    "deadline": 20.0,
    "task": "t",
}


@contextmanager
def helped(router) -> Iterator:
    router.add_examples(EXAMPLES)
    yield router
    router.close()


async def test_an_arm_of_langchain(small):
    arms = {"small": ChatFromModel(model=small, max_tokens=8), "large": ChatFromModel(model=ScriptedStream("large"))}
    with helped(ICCacheChatModel(arms=arms, **OPTIONS)) as router:
        whole = router.invoke(ASKED)
        provenance = whole.response_metadata["iccache"]
        assert (provenance["arm"], provenance["tier"], len(provenance["examples"])) == ("small", "model", 2)
        assert whole.response_metadata["model_name"] == small.name
        alone = arms["small"].invoke(ASKED)
        assert whole.usage_metadata["input_tokens"] > alone.usage_metadata["input_tokens"]  # it was shown the examples
        assert (await router.ainvoke(ASKED)).text == whole.text
        chunks = [list(router.stream(ASKED)), [chunk async for chunk in router.astream(ASKED)]]
        for pieces in chunks:
            assert len([piece for piece in pieces if piece.text]) > 1
            added = sum(pieces[1:], pieces[0])
            assert added.text == whole.text
            assert added.response_metadata["finish_reason"] == whole.response_metadata["finish_reason"]
            assert added.usage_metadata["input_tokens"] == whole.usage_metadata["input_tokens"]
        assert router.flush(10)
        assert router.counters.value("decided", arm="small") == 4


async def test_an_arm_of_llamaindex(small):
    arms = {"small": LLMFromModel(model=small, max_tokens=8), "large": LLMFromModel(model=ScriptedStream("large"))}
    with helped(ICCacheLLM(arms=arms, **OPTIONS)) as router:
        asked = [ChatMessage(role="user", content=ASKED)]
        whole = router.chat(asked)
        provenance = whole.additional_kwargs["iccache"]
        assert (provenance["arm"], provenance["tier"], len(provenance["examples"])) == ("small", "model", 2)
        alone = arms["small"].chat(asked)
        assert whole.raw["model"] == small.name
        assert whole.raw["usage"]["prompt_tokens"] > alone.raw["usage"]["prompt_tokens"]
        text = whole.message.content
        assert (await router.achat(asked)).message.content == text
        streams = [
            [(p.delta, p.message.content) for p in router.stream_chat(asked)],
            [(p.delta, p.message.content) async for p in await router.astream_chat(asked)],
            [(p.delta, p.text) for p in router.stream_complete(ASKED)],
        ]
        for pieces in streams:
            assert len([delta for delta, _ in pieces if delta]) > 1
            assert "".join(delta for delta, _ in pieces) == pieces[-1][1] == text
        assert router.flush(10)
        assert router.counters.value("decided", arm="small") == 5


def test_an_arm_is_asked_as_a_model(small):
    asked = [Message("user", ASKED)]
    own = small.complete(asked, max_tokens=6)
    for model in (
        iccache_langchain.as_model(ChatFromModel(model=small)),
        iccache_llamaindex.as_model(LLMFromModel(model=small)),
    ):
        completion = model.complete(asked, max_tokens=6)
        assert (completion.texts, completion.finish_reasons) == (own.texts, own.finish_reasons)
        assert completion.logprobs[0] == pytest.approx(own.logprobs[0], abs=1e-4)
