"""A stream whose generation fails ends, and leaves the model free. The model is a fake; the real one is in integration."""

import pytest

from shared_core.errors import ModelFailed
from shared_core.inference.huggingface import HuggingFaceModel
from shared_core.values import Message


class Tokenizer:
    eos_token_id = 0

    def apply_chat_template(self, turns, **_):
        return turns[-1]["content"]

    def __call__(self, prompts, **_):
        import torch

        return {"input_ids": torch.ones(1, 2, dtype=torch.long), "attention_mask": torch.ones(1, 2, dtype=torch.long)}

    def decode(self, ids, **_):
        return "text"


class Broken:
    def generate(self, **_):
        raise RuntimeError("out of memory")


@pytest.mark.timeout(30)
def test_a_stream_whose_generation_fails_says_so_and_frees_the_model():
    model = HuggingFaceModel("folder/tiny", device="cpu")
    model._loaded = Tokenizer(), Broken()
    for _ in range(2):
        with pytest.raises(ModelFailed, match="tiny broke off: RuntimeError: out of memory"):
            list(model.stream([Message("user", "x")], max_tokens=3))
    assert not model._lock.locked()
