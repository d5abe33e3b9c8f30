"""A `Model` in this process, over transformers: the paper's HuggingFace runtime."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from typing_extensions import override

from shared_core.errors import ConfigurationError, ExtraIsMissing, ModelFailed, shown
from shared_core.inference import Completion, StreamingModel
from shared_core.inference.checks import check_call, check_name, check_whole
from shared_core.inference.generation import completions, encoded
from shared_core.sharing import Shared
from shared_core.values import Clock, Message


class HuggingFaceModel(Shared, StreamingModel):
    """A causal language model with a chat template; see `Model`.

    `load` or the first call loads the weights, from safetensors or a GGUF file only. Calls take turns; use
    `complete_batch` to answer many conversations fast.

    Waiting for a turn counts against a call's `timeout`. An answer that the timeout cuts ends with the reason
    ``"timeout"``. The clock is read between two tokens, so a call ends at most one token late. Loading the weights and
    reading the prompt are not interrupted. At temperature 0 all n answers are the same, and generated once.

    Args:
        model: A folder, or a hub id.
        device: Where the model runs, such as ``"cpu"`` or ``"cuda:0"``; by default a GPU if there is one.
        dtype: Type of the weights, such as ``"bfloat16"``; by default as they were saved.
        seed: Seed of the sampling at a temperature above 0.
        gguf_file: Name of a GGUF file in the folder; it is unpacked.
        clock: Monotonic, in seconds.

    Raises:
        ConfigurationError: An argument is of another kind, or torch knows no such device or dtype.
        ExtraIsMissing: transformers or torch is not installed.
    """

    because = "it holds weights; build it in each process"

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
        check_name("model", str(model) if isinstance(model, Path) else model, "a folder, or a hub id")
        check_whole("seed", seed, 0)
        try:
            import torch
            import transformers  # noqa: F401 - a missing package fails here, not in the first call
        except ImportError as error:
            raise ExtraIsMissing("transformers", "embed") from error
        _check_torch(torch, device, dtype)
        self._path = str(model)
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = dtype or "auto"
        self._gguf = {"gguf_file": gguf_file} if gguf_file else {}
        self._generator = torch.Generator().manual_seed(seed)
        self._clock = clock
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    def load(self) -> None:
        """Load the weights unless they are loaded; takes seconds. Otherwise the first call does it, within its `timeout`.

        Raises:
            ConfigurationError: The model cannot be loaded, or has no chat template.
        """
        with self._lock:
            self._load()

    @property
    @override
    def name(self) -> str:
        return self._path.rstrip("/").rsplit("/", 1)[-1]  # of a path or a hub id

    @override
    def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        n: int = 1,
        timeout: float = 60.0,
    ) -> Completion:
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
        """Answer several conversations together; each answer is the same as from a call of its own.

        Raises:
            ModelFailed: The model cannot be loaded, generation failed, or it could not begin within `timeout`.
        """
        return self._generate(conversations, max_tokens, temperature, n, timeout)

    @override
    def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0, timeout: float = 60.0
    ) -> Generator[str, None, Completion]:
        pieces: SimpleQueue[str | Completion | Exception] = SimpleQueue()
        has_left = threading.Event()

        def generate() -> None:
            try:
                (completion,) = self._generate(
                    [messages], max_tokens, temperature, 1, timeout, has_left.is_set, pieces.put
                )
                pieces.put(completion)
            except Exception as error:  # noqa: BLE001 - raised again where the stream is read
                pieces.put(error)

        # The thread does not wait for the reader, so a reader that pauses delays nobody. It is not a daemon: one inside
        # torch when the interpreter ends would bring the process down, and it ends by `timeout` at the latest.
        threading.Thread(target=generate, name="iccache-generate").start()
        try:
            while not isinstance(piece := pieces.get(), Completion):
                if isinstance(piece, Exception):
                    raise piece
                if piece:
                    yield piece
            return piece
        finally:
            has_left.set()

    def _generate(
        self,
        conversations: Sequence[Sequence[Message]],
        max_tokens: int,
        temperature: float,
        n: int,
        timeout: float,
        has_left: Callable[[], bool] = bool,
        take: Callable[[str], None] | None = None,
    ) -> Sequence[Completion]:
        """Wait for this call's turn, then generate.

        Args:
            conversations: One or more.
            max_tokens: As in `Model.complete`, like the next three.
            temperature: 0 or more.
            n: 1 or more.
            timeout: In seconds, from now.
            has_left: True once the caller has stopped waiting.
            take: Called with each piece of the answer; needs one conversation and one answer.
        """
        for messages in conversations:
            check_call(messages, max_tokens=max_tokens, temperature=temperature, n=n, timeout=timeout)
        import torch
        from transformers import StoppingCriteriaList, TextStreamer

        begun = self._clock()

        def must_end(*_: Any, **__: Any) -> bool:
            return has_left() or self._clock() - begun >= timeout

        with self._turn(begun, timeout) as (tokenizer, model), torch.inference_mode():
            options: dict[str, Any] = self._sampling(temperature)
            if temperature > 0:
                options["num_return_sequences"] = n
            if take:
                streamer: Any = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
                streamer.on_finalized_text = lambda text, **_: take(text)  # instead of printing it
                options["streamer"] = streamer
            try:
                inputs = encoded(tokenizer, conversations, self._device)
                made = model.generate(
                    **inputs,
                    **options,
                    max_new_tokens=max_tokens,
                    return_dict_in_generate=True,
                    output_logits=True,
                    stopping_criteria=StoppingCriteriaList([must_end]),
                )
            except Exception as error:
                raise ModelFailed(f"{self.name} gave no answer: {type(error).__name__}: {error}") from error
            seconds = self._clock() - begun
            return completions(tokenizer, model, inputs, made, n=n, max_tokens=max_tokens, seconds=seconds)

    @contextmanager
    def _turn(self, begun: float, timeout: float) -> Iterator[tuple[Any, Any]]:
        """Tokenizer and model, for one call at a time."""
        if not self._lock.acquire(timeout=min(timeout, threading.TIMEOUT_MAX)):
            raise ModelFailed(f"{self.name} was busy with other calls for {timeout:g} s; give a longer timeout")
        try:
            loaded = self._loaded_or_failed()
            if self._clock() - begun >= timeout:
                raise ModelFailed(
                    f"{self.name} was still loading after {timeout:g} s; call load() before the first call"
                )
            yield loaded
        finally:
            self._lock.release()

    def _loaded_or_failed(self) -> tuple[Any, Any]:
        try:
            return self._load()
        except ConfigurationError as error:  # only `load` raises it: a call promises `ModelFailed` alone
            raise ModelFailed(str(error)) from error

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from transformers import AutoModelForCausalLM, AutoTokenizer

            try:
                tokenizer = AutoTokenizer.from_pretrained(self._path, padding_side="left", **self._gguf)
                model: Any = AutoModelForCausalLM.from_pretrained(
                    self._path, dtype=self._dtype, **({} if self._gguf else {"use_safetensors": True}), **self._gguf
                )
            except (ImportError, OSError, ValueError) as error:
                raise ConfigurationError(f"the model {self._path!r} cannot be loaded: {error}") from None
            if tokenizer.chat_template is None:
                raise ConfigurationError(
                    f"the model {self._path!r} has no chat template; give an instruct or chat model"
                )
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            self._loaded = tokenizer, model.to(self._device).eval()
        return self._loaded

    def _sampling(self, temperature: float) -> dict[str, Any]:
        import torch

        if temperature <= 0:
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        # transformers samples from torch's own state, so each call is given the next seed of this model.
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=self._generator).item()))
        return {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}


def _check_torch(torch: Any, device: object, dtype: object) -> None:
    """Refuse a device or a type of weights that torch does not know; the first call would fail otherwise."""
    try:
        if device is not None:
            torch.device(device)
    except (RuntimeError, TypeError):
        raise ConfigurationError(
            f"device is {shown(device)}, which torch does not know; pass such as 'cpu' or 'cuda:0'"
        ) from None
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype not in (None, "auto") and not isinstance(named, torch.dtype):
        raise ConfigurationError(
            f"dtype is {shown(dtype)}, which torch does not know; pass such as 'bfloat16' or 'float32'"
        )
