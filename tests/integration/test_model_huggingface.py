"""SmolLM2 in this process: batches, streams, log-probabilities, sampling."""

import math
from pathlib import Path

import pytest

from shared_core.errors import ModelFailed
from shared_core.inference.huggingface import HuggingFaceModel
from shared_core.inference.serving import packaged_gguf
from shared_core.values import Message

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ASKED = [Message("user", "What is the capital of France?")]
OTHER = [Message("system", "You answer in one word."), Message("user", "Which colour has the sky on a clear day?")]


@pytest.fixture(scope="module")
def model():
    gguf = Path(packaged_gguf())
    model = HuggingFaceModel(gguf.parent, gguf_file=gguf.name, dtype="float32", device="cpu")
    model.load()
    return model


def test_a_batch_answers_as_one_by_one(model):
    alone = [model.complete(messages, max_tokens=12) for messages in (ASKED, OTHER)]
    together = model.complete_batch([ASKED, OTHER], max_tokens=12)
    assert [c.texts for c in together] == [c.texts for c in alone]
    assert [c.prompt_tokens for c in together] == [c.prompt_tokens for c in alone]
    assert "Paris" in alone[0].texts[0]
    for completion in together:
        (logprobs,) = completion.logprobs
        assert len(logprobs) == completion.completion_tokens <= 12
        assert all(-20 < value <= 0 for value in logprobs)
        assert math.exp(logprobs[0]) > 0.1  # greedy: the most probable of 49,152 tokens


def test_a_stream_says_what_a_whole_answer_says(model):
    whole = model.complete(ASKED, max_tokens=12).texts[0]
    assert "".join(model.stream(ASKED, max_tokens=12)) == whole
    stream = model.stream(ASKED, max_tokens=200)
    next(stream)
    stream.close()  # ends the generation, so that the next call can begin
    assert model.complete(ASKED, max_tokens=12).texts[0] == whole


def test_samples_differ_and_a_seed_repeats_them(model):
    def sampled(seed):
        model._generator.manual_seed(seed)
        return [model.complete(ASKED, max_tokens=12, temperature=1.5, n=3).texts for _ in range(2)]

    first = sampled(3)
    assert len({text for texts in first for text in texts}) == 6
    assert sampled(3) == first
    assert sampled(4) != first


def test_an_answer_that_is_cut_says_so(model):
    assert model.complete(ASKED, max_tokens=1).finish_reasons == ("length",)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelFailed, match="cannot be loaded"):
        HuggingFaceModel(tmp_path).complete(ASKED, max_tokens=1)
