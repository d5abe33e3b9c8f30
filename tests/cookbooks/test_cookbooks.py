"""The cookbooks: each runs as it is kept, says what to change for real servers, and gives nothing of a machine away."""

import ast
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("nbclient")
pytest.importorskip("xllamacpp")

from cookbooks import run  # noqa: E402
from shared_core.errors import ICCacheError  # noqa: E402
from shared_core.inference import serving  # noqa: E402

ROOT = Path(__file__).parents[2]
NAMES = [path.name for path in run.cookbooks()]
ON_VLLM = sorted((run.HERE / "on_vllm").glob("*.ipynb"))
LARGEST = 150_000  # bytes; pages are read on the web
HOMES = re.compile(r"/(home|root|tmp|work|Users|var/folders)/|[A-Z]:\\Users")


def code(notebook):
    """The code cells that are Python as it stands (no cell magic)."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and not cell.source.startswith("%%")]


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def imported(source):
    """Modules that a source imports; a top-level await is what notebooks have."""
    tree = compile(source, "cell", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def modules_of(notebook):
    sources = [
        cell.source.removeprefix("%%writefile worker.py\n") for cell in notebook.cells if cell.cell_type == "code"
    ]
    return {module for source in sources for module in imported(source)}


@pytest.fixture(params=NAMES)
def notebook(request):
    return run.read(run.HERE / request.param)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_runs_as_it_is(name, tmp_path):
    try:
        serving.packaged_gguf()
    except ICCacheError as missing:
        pytest.skip(str(missing))
    executed = run.execute(run.read(run.HERE / name), tmp_path)
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")


def test_there_are_seven():
    assert [name[:2] for name in NAMES] == ["01", "02", "03", "04", "05", "06", "07"]


def test_says_what_to_change_for_real_servers(notebook):
    (models,) = tagged(notebook, "models")
    (real,) = tagged(notebook, "vllm")
    assert notebook.cells.index(real) == notebook.cells.index(models) + 1
    (python,) = re.findall(r"```python\n(.*?)```", real.source, re.DOTALL)
    changed = ast.parse(python).body
    assert [assignment.targets[0].id for assignment in changed] == ["SMALL", "LARGE"]
    assert "vllm serve" in real.source


def test_imports_the_adapters_and_never_the_core(notebook):
    modules = {module.split(".")[0] for module in modules_of(notebook)}
    assert modules & {"iccache_langchain", "iccache_llamaindex"}
    assert "shared_core" not in modules


def test_names_the_packages_that_no_extra_brings(notebook):
    packages = {
        "langchain_openai": "langchain-openai",
        "llama_index.embeddings.huggingface": "llama-index-embeddings-huggingface",
        "llama_index.llms.openai_like": "llama-index-llms-openai-like",
        "matplotlib.pyplot": "matplotlib",
    }
    (needs,) = [line for line in notebook.cells[0].source.replace("\\\n", "").splitlines() if "pip install" in line]
    imported_here = {packages[module] for module in modules_of(notebook) & packages.keys()}
    assert imported_here
    assert imported_here <= set(needs.split())


@pytest.mark.parametrize(
    "path", [run.HERE / name for name in NAMES] + ON_VLLM, ids=lambda path: path.parent.name + path.name
)
def test_what_is_kept(path):
    kept = run.read(path)
    outputs = [output for cell in code(kept) for output in cell.outputs]
    assert outputs, "no output is kept: make cookbooks-update"
    assert not any(output.output_type == "error" for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert not HOMES.search(json.dumps(outputs))
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("path", ON_VLLM, ids=lambda path: path.name)
def test_what_ran_on_vllm_is_the_same_page_but_for_the_models(path):
    ours, real = run.read(run.HERE / path.name), run.read(path)
    (start,) = tagged(ours, "models")
    same = [cell.source for cell in ours.cells if cell.cell_type == "code" and cell is not start]
    (own,) = tagged(real, "models")
    assert [cell.source for cell in real.cells if cell.cell_type == "code" and cell is not own] == same


def python_of(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("block", python_of(ROOT / "README.md"))
def test_the_readmes_python_compiles_and_its_imports_exist(block):
    """The README's blocks go on from one another, so its names are taken as given; what it imports must be there."""
    tree = ast.parse(block)
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(compile(ast.Module([node], []), "README.md", "exec"), {})


def test_the_readme_never_imports_the_core():
    modules = {module for block in python_of(ROOT / "README.md") for module in imported(block)}
    assert modules
    assert not any(module.startswith("shared_core") for module in modules)


def test_the_readmes_chat_model_is_built_and_answers(tmp_path, monkeypatch):
    """Its first block, run as it is, with servers in place of those it names."""
    from tests.openai_server import openai_server

    monkeypatch.chdir(tmp_path)
    block = next(block for block in python_of(ROOT / "README.md") if "ICCacheChatModel(" in block)
    with openai_server() as server:
        block = re.sub(r"http://gpu-\d:8000/v1", server.url, block)
        names = {}
        exec(compile(block, "README.md", "exec"), names)
        assert names["chain"].invoke({"question": "hello"}) == "Hello, this is a scripted answer."
        names["llm"].close()
