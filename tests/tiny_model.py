"""A language model of some thousand random weights, for all that does not depend on what a model says.

It never ends by itself: the token that would end its answer has no place among its logits.
"""

from __future__ import annotations

from pathlib import Path

TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
WORDS = ["<unknown>", "system", "user", "assistant", *(f"w{n}" for n in range(60))]
END = len(WORDS)


def write_tiny_model(folder: Path, seed: int = 0, *, template: str | None = TEMPLATE) -> Path:
    """Write a Llama of one layer and 64 words to `folder`, as `save_pretrained` does; returns `folder`."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({word: n for n, word in enumerate([*WORDS, "<end>"])}, unk_token="<unknown>"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<unknown>")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=4096,
        initializer_range=1.0,  # so that one word stands out from the others
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
