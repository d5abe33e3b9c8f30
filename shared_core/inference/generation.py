"""Conversations → tensors → answers, for a generation with transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shared_core.inference import Completion
from shared_core.values import Message

if TYPE_CHECKING:
    import torch


def encoded(tokenizer: Any, conversations: Sequence[Sequence[Message]], device: str) -> dict[str, torch.Tensor]:
    """Token ids and attention mask, each of shape (conversations, longest prompt), padded on the left."""
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": message.role, "content": message.text} for message in messages],
            add_generation_prompt=True,
            tokenize=False,
        )
        for messages in conversations
    ]
    tensors = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    return {name: tensors[name].to(device) for name in ("input_ids", "attention_mask")}


def completions(
    tokenizer: Any, model: Any, inputs: dict[str, torch.Tensor], made: Any, *, n: int, max_tokens: int, seconds: float
) -> Sequence[Completion]:
    """The answers to each conversation.

    Args:
        tokenizer: The model's tokenizer.
        model: Its generation config names the tokens that end an answer.
        inputs: As `encoded` gave them.
        made: The output of ``model.generate``, with logits. It holds n answers to each conversation, or one
            answer that is returned n times.
        n: How many answers were asked for.
        max_tokens: The limit on each answer.
        seconds: How long the generation took.
    """
    import torch

    written = made.sequences[:, inputs["input_ids"].shape[1] :]
    steps = [
        logits.float().log_softmax(-1).gather(-1, written[:, place : place + 1])
        for place, logits in enumerate(made.logits)
    ]
    chosen = torch.cat(steps, dim=1)
    ends = _as_set(model.generation_config.eos_token_id) | {tokenizer.eos_token_id}
    cut = "length" if written.shape[1] >= max_tokens else "timeout"
    each = [_answer(ids, values, ends) for ids, values in zip(written.tolist(), chosen.tolist(), strict=True)]
    by_conversation = len(each) // len(inputs["input_ids"])
    found = []
    for row, mask in enumerate(inputs["attention_mask"]):
        answers = each[row * by_conversation : (row + 1) * by_conversation] * (n // by_conversation)
        found.append(
            Completion(
                texts=tuple(tokenizer.decode(ids, skip_special_tokens=True) for ids, _, _ in answers),
                finish_reasons=tuple("stop" if has_ended else cut for _, _, has_ended in answers),
                prompt_tokens=int(mask.sum()),
                completion_tokens=sum(len(ids) for ids, _, _ in answers),
                seconds=seconds,
                logprobs=tuple(tuple(values) for _, values, _ in answers),
            )
        )
    return found


def _answer(ids: list[int], logprobs: list[float], ends: set[int]) -> tuple[list[int], list[float], bool]:
    """The tokens up to the first that ends an answer, their log-probabilities, and whether there is one."""
    length = next((place for place, token in enumerate(ids) if token in ends), None)
    return ids[:length], logprobs[:length], length is not None


def _as_set(value: int | Sequence[int] | None) -> set[int]:
    return {value} if isinstance(value, int) else set(value or ())
