"""The built wheel in clean environments: each adapter works where the other's framework is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
LLAMAINDEX = """
import importlib.util
from iccache_llamaindex import ICCacheLLM
from llama_index.core.llms import ChatMessage, MockLLM
assert importlib.util.find_spec("langchain_core") is None
arms = {"small": MockLLM(), "large": MockLLM()}
llm = ICCacheLLM(arms=arms, reference="large", costs={"small": 0.1}, store="memory://", embedder=lengths)
print(llm.chat([ChatMessage(role="user", content="x")]).additional_kwargs["iccache"]["arm"])
llm.close()
try:
    import iccache_langchain
except ImportError as error:
    print(error)
"""
LANGCHAIN = """
import importlib.util
from iccache_langchain import ICCacheChatModel
from langchain_core.language_models.fake_chat_models import ParrotFakeChatModel
assert importlib.util.find_spec("llama_index") is None
arms = {"small": ParrotFakeChatModel(), "large": ParrotFakeChatModel()}
llm = ICCacheChatModel(arms=arms, reference="large", costs={"small": 0.1}, store="memory://", embedder=lengths)
print(llm.invoke("x").response_metadata["iccache"]["arm"])
llm.close()
try:
    import iccache_llamaindex
except ImportError as error:
    print(error)
"""
EMBEDDER = "def lengths(texts):\n    return [[float(len(text)), 1.0] for text in texts]\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-c", "import hatchling.build as b, sys; b.build_wheel(sys.argv[1])", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.parametrize(
    ("extra", "code", "other"),
    [
        ("llamaindex", LLAMAINDEX, "langchain-core is not installed; run: pip install 'iccache[langchain]'"),
        ("langchain", LANGCHAIN, "llama-index-core is not installed; run: pip install 'iccache[llamaindex]'"),
    ],
)
def test_an_adapter_needs_its_own_framework_only(wheel, tmp_path, extra, code, other):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{wheel}[{extra},cpu]"]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([python, "-c", EMBEDDER + code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["large", other]), done.stderr
