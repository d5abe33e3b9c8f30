"""The one place where the command line reaches up to an adapter: by name, since the core imports no framework."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from shared_core.errors import ExtraIsMissing


def langchain_demo(
    *,
    data: Path | None,
    small: str | None,
    large: str | None,
    max_tokens: int,
    requests: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Run `iccache_langchain.demo.program`.

    Raises:
        ExtraIsMissing: LangChain is not installed.
        ICCacheError: The demo cannot run as asked.
    """
    if importlib.util.find_spec("langchain_core") is None:
        raise ExtraIsMissing("langchain-core", "demo")
    program = importlib.import_module("iccache_langchain.demo.program")
    program.run(
        data=data, small=small, large=large, max_tokens=max_tokens, requests=requests, seed=seed, as_json=as_json
    )
