"""A `Model` in this process, over transformers: the paper's HuggingFace runtime."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared_core.errors import ConfigurationError, ExtraIsMissing, ModelFailed
from shared_core.inference import Completion
from shared_core.values import Clock, Message

if TYPE_CHECKING:
    import torch


class HuggingFaceModel:
    """A causal language model with a chat template; see `Model`.

    Weights are loaded with the first call, from safetensors (or a GGUF file) only. Calls take turns: one model does one
    thing at a time, and `complete_batch` is what makes many conversations fast.

    Args:
        model: A folder, or a hub id.
        device: Where it runs, such as ``"cpu"`` or ``"cuda:0"``; by default a GPU if there is one.
        dtype: Of the weights, such as ``"bfloat16"``; by default as they were saved.
        seed: Of what is sampled at a temperature above 0.
        gguf_file: Name of a GGUF file in the folder, to be unpacked.
        clock: Monotonic, in seconds.

    Raises:
        ExtraIsMissing: transformers or torch is not installed.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str | None = None,
        dtype: str | None = None,
        seed: int = 0,
        gguf_file: str | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        try:
            import torch
            import transformers  # noqa: F401 - asked for now, so that a missing package is said at once
        except ImportError as error:
            raise ExtraIsMissing("transformers", "embed") from error
        self._path = str(model)
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = dtype or "auto"
        self._gguf = {"gguf_file": gguf_file} if gguf_file else {}
        self._generator = torch.Generator().manual_seed(seed)
        self._clock = clock
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    @property
    def name(self) -> str:
        """The last part of the path or hub id."""
        return self._path.rstrip("/").rsplit("/", 1)[-1]

    def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        n: int = 1,
        timeout: float = 60.0,
    ) -> Completion:
        """See `Model.complete`, with log-probabilities."""
        (completion,) = self.complete_batch(
            [messages], max_tokens=max_tokens, temperature=temperature, n=n, timeout=timeout
        )
        return completion

    def complete_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        n: int = 1,
        timeout: float = 60.0,
    ) -> Sequence[Completion]:
        """Answer several conversations together; an answer is the same as if it were asked for alone.

        Raises:
            ConfigurationError: The model cannot be loaded, or has no chat template.
            ModelFailed: Generation failed. An answer that `timeout` cuts short ends with the reason ``"timeout"``.
        """
        import torch

        with self._lock, torch.inference_mode():
            tokenizer, model = self._load()
            begun = self._clock()
            inputs = self._inputs(tokenizer, conversations)
            try:
                made = model.generate(
                    **inputs,
                    max_new_tokens=max_tokens,
                    num_return_sequences=n,
                    return_dict_in_generate=True,
                    output_logits=True,
                    max_time=timeout,
                    **self._sampling(temperature),
                )
            except (RuntimeError, ValueError) as error:
                raise ModelFailed(f"{self.name} gave no answer: {type(error).__name__}: {error}") from error
            return self._read(tokenizer, model, inputs, made, n, self._clock() - begun, timeout)

    def stream(self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0) -> Iterator[str]:
        """The pieces of one answer as they are made. Leaving the iterator ends the generation.

        Raises:
            ConfigurationError: The model cannot be loaded, or has no chat template.
            ModelFailed: Generation failed.
        """
        from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

        left = threading.Event()
        failures: list[Exception] = []

        class _Left(StoppingCriteria):
            def __call__(self, *_: Any, **__: Any) -> bool:
                return left.is_set()

        with self._lock:
            tokenizer, model = self._load()
            streamer: Any = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
            arguments = {
                **self._inputs(tokenizer, [messages]),
                **self._sampling(temperature),
                "max_new_tokens": max_tokens,
                "streamer": streamer,
                "stopping_criteria": StoppingCriteriaList([_Left()]),
            }

            def generate() -> None:
                try:
                    model.generate(**arguments)
                except Exception as error:  # noqa: BLE001 - raised again where the stream is read
                    failures.append(error)
                    streamer.end()  # else its reader would wait for ever

            worker = threading.Thread(target=generate, name="iccache-generate", daemon=True)
            worker.start()
            try:
                yield from (piece for piece in streamer if piece)
            finally:
                left.set()
                worker.join()
            if failures:
                error = failures[0]
                raise ModelFailed(f"{self.name} broke off: {type(error).__name__}: {error}") from error

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from transformers import AutoModelForCausalLM, AutoTokenizer

            try:
                tokenizer = AutoTokenizer.from_pretrained(self._path, padding_side="left", **self._gguf)
                model: Any = AutoModelForCausalLM.from_pretrained(
                    self._path, dtype=self._dtype, **({} if self._gguf else {"use_safetensors": True}), **self._gguf
                )
            except (OSError, ValueError) as error:
                raise ConfigurationError(f"the model {self._path!r} cannot be loaded: {error}") from error
            if tokenizer.chat_template is None:
                raise ConfigurationError(f"the model {self._path!r} has no chat template; give one that follows chats")
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            self._loaded = tokenizer, model.to(self._device).eval()
        return self._loaded

    def _inputs(self, tokenizer: Any, conversations: Sequence[Sequence[Message]]) -> dict[str, Any]:
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": message.role, "content": message.text} for message in messages],
                add_generation_prompt=True,
                tokenize=False,
            )
            for messages in conversations
        ]
        encoded = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        return {name: encoded[name].to(self._device) for name in ("input_ids", "attention_mask")}

    def _sampling(self, temperature: float) -> dict[str, Any]:
        import torch

        if temperature <= 0:
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        # transformers samples from torch's own state, so each call is given the next seed of this model.
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=self._generator).item()))
        return {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}

    def _read(
        self, tokenizer: Any, model: Any, inputs: dict[str, Any], made: Any, n: int, seconds: float, timeout: float
    ) -> Sequence[Completion]:
        import torch

        start = inputs["input_ids"].shape[1]
        written = made.sequences[:, start:]
        logprobs: torch.Tensor = torch.stack(made.logits, dim=1).float().log_softmax(-1)
        chosen = logprobs.gather(-1, written.unsqueeze(-1)).squeeze(-1)
        ends = _as_set(model.generation_config.eos_token_id) | {tokenizer.eos_token_id}
        completions = []
        for row, mask in enumerate(inputs["attention_mask"]):
            answers = [_answer(written[i].tolist(), chosen[i].tolist(), ends) for i in range(row * n, row * n + n)]
            cut = "timeout" if seconds >= timeout else "length"
            completions.append(
                Completion(
                    texts=tuple(tokenizer.decode(ids, skip_special_tokens=True) for ids, _, _ in answers),
                    finish_reasons=tuple("stop" if has_ended else cut for _, _, has_ended in answers),
                    prompt_tokens=int(mask.sum()),
                    completion_tokens=sum(len(ids) for ids, _, _ in answers),
                    seconds=seconds,
                    logprobs=tuple(tuple(values) for _, values, _ in answers),
                )
            )
        return completions


def _answer(ids: list[int], logprobs: list[float], ends: set[int]) -> tuple[list[int], list[float], bool]:
    """The tokens up to the first that ends an answer, their log-probabilities, and whether there is one."""
    length = next((place for place, token in enumerate(ids) if token in ends), None)
    return ids[:length], logprobs[:length], length is not None


def _as_set(value: int | Sequence[int] | None) -> set[int]:
    return {value} if isinstance(value, int) else set(value or ())
