"""What the wheel holds, and what an import costs."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"iccache_langchain", "iccache_llamaindex", "shared_core"}

IMPORT_QUIETLY = """
import sys

touched = []

def watch(event, arguments):
    if event.startswith("socket.") and event != "socket.__new__":
        touched.append((event, str(arguments)))
    if event == "open" and not str(arguments[0]).endswith((".py", ".pyc", ".so", ".pyd", ".typed")):
        touched.append((event, str(arguments[0])))

sys.addaudithook(watch)
import shared_core
assert not touched, touched
heavy = {"langchain_core", "langchain", "llama_index", "torch", "transformers", "faiss", "redis"} & set(sys.modules)
assert not heavy, heavy
"""

ENGINE_IS_LIGHT = """
import sys
import shared_core.engine
heavy = {"langchain_core", "langchain", "llama_index", "torch", "transformers", "faiss", "redis"} & set(sys.modules)
assert not heavy, heavy
"""

WITHOUT_EXTRAS = """
import sys

for name in ("faiss", "redis", "sentence_transformers", "torch"):
    sys.modules[name] = None  # as if it were not installed

from shared_core.errors import ExtraIsMissing
from shared_core.store import open_store
from shared_core.settings import Settings
from shared_core.engine import Engine
from shared_core.inference.embedders import as_embedder

for action, extra in (
    (lambda: open_store("redis://localhost:1", settings=Settings()), "redis"),
    (lambda: Engine(store="memory://", embedder=as_embedder(lambda texts: [[1.0]], tag="t")), "cpu"),
    (lambda: as_embedder("some/model").embed(["x"]), "embed"),
):
    try:
        action()
    except ExtraIsMissing as error:
        assert f"pip install 'iccache[{extra}]'" in str(error), error
        assert "\\n" not in str(error)
    else:
        raise SystemExit(f"nothing was said about {extra}")
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-c", "import hatchling.build as b, sys; b.build_wheel(sys.argv[1])", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_exactly_the_three_packages(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {t for t in tops if not t.endswith(".dist-info")} == PACKAGES
    for package in PACKAGES:
        assert f"{package}/py.typed" in wheel.namelist()


def test_importing_the_core_pulls_nothing_heavy_and_touches_no_file_or_socket():
    run(IMPORT_QUIETLY)


def test_the_engine_imports_neither_framework_nor_torch():
    run(ENGINE_IS_LIGHT)


def test_a_missing_extra_is_one_line_with_the_command():
    run(WITHOUT_EXTRAS)


@pytest.mark.parametrize("package", ["iccache_langchain", "iccache_llamaindex"])
def test_everything_that_a_user_touches_comes_from_the_adapter_and_loads_lazily(package):
    code = (
        f"import sys, time; begun = time.perf_counter(); import {package} as p; took = time.perf_counter() - begun\n"
        "heavy = {'langchain_core', 'llama_index.core', 'torch', 'faiss', 'numpy.linalg', 'pydantic'} & sys.modules.keys()\n"
        "assert not heavy - {'numpy.linalg'}, heavy\n"
        "missing = [n for n in ('Engine', 'Redact', 'Reward', 'Store', 'as_embedder', 'iccache_context', '__version__',\n"
        "    'ICCacheError', 'ConfigurationError', 'EmbedderFailed', 'EmbedderDiffers', 'ExtraIsMissing', 'NotFromICCache',\n"
        "    'RedactionFailed', 'StoreIsUnusable', 'ModelFailed', 'Model', 'Message', 'OpenAIModel', 'HuggingFaceModel', 'as_model')\n"
        "    if n not in p.__all__ or getattr(p, n, None) is None]\n"
        "assert not missing, missing\n"
        "assert set(p.__all__) <= set(dir(p))\n"
        "[getattr(p, n) for n in p.__all__]\n"
        "print(took)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.5
