"""A type checker accepts what the constructors take, and refuses what they would refuse."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PREAMBLE = """
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.llms import LLM
from iccache_langchain import ICCache, ICCacheChatModel, ICCacheMiddleware, as_embedder
from iccache_llamaindex import ICCacheLLM

def chat(small: BaseChatModel, large: BaseChatModel) -> ICCacheChatModel:
    return ICCacheChatModel(arms={"small": small, "large": large}, reference="large", CHAT)

def cache() -> ICCache:
    return ICCache("memory://", CACHE)

def embedding(ours: Embeddings, theirs: BaseEmbedding) -> list[ICCache]:
    ready = as_embedder("some/model")
    return [ICCache(embedder=ours), ICCache(embedder=theirs), ICCache(embedder=ready), ICCache(embedder="some/model")]

def agent(large: BaseChatModel) -> ICCacheMiddleware:
    return ICCacheMiddleware(arms={"small": large, "large": None}, reference="large", costs={"small": 0.1})

def llm(small: LLM, large: LLM) -> ICCacheLLM:
    return ICCacheLLM(arms={"small": small, "large": large}, reference="large", LLMS)
"""
RIGHT = {
    "CHAT": 'costs={"small": 0.1}, store="memory://", max_examples=3, tags=["a"], example_budgets={"small": 300}',
    "CACHE": 'reference="large", scope="acme", exact_ttl=60.0, embedder=lambda texts: [[1.0] for _ in texts]',
    "LLMS": 'costs={"small": 0.1}, strict_scope=True, quality_target=0.8, system_prompt="Be brief."',
}
WRONG = {"CHAT": 'cost={"small": 0.1}', "CACHE": "exact_ttl='an hour', embedder=3", "LLMS": "reward='yes'"}


def checked(tmp_path, arguments):
    """Mypy's messages about the three constructors with these arguments."""
    from mypy import api

    source = PREAMBLE
    for name, text in arguments.items():
        source = source.replace(name + ")", text + ")")
    file = tmp_path / "used.py"
    file.write_text(source)
    out, _, _ = api.run(["--strict", "--cache-dir", str(tmp_path / "cache"), "--follow-imports=silent", str(file)])
    return [line for line in out.splitlines() if line.startswith(str(file)) or "used.py" in line]


@pytest.mark.slow
@pytest.mark.timeout(900)  # mypy starts without a cache, and checks all that the frameworks import
def test_mypy_accepts_and_refuses_the_options(tmp_path, monkeypatch):
    pytest.importorskip("mypy")
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(os.environ, "MYPYPATH", str(ROOT))
    assert checked(tmp_path, RIGHT) == []
    said = "\n".join(checked(tmp_path, WRONG))
    assert 'Unexpected keyword argument "cost"' in said
    assert said.count("arg-type") + said.count("incompatible type") >= 3
