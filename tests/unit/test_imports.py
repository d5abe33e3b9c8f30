"""Imports stand where import-linter sees them: no module is named by a string that an import does not repeat."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("iccache_langchain", "iccache_llamaindex", "shared_core")
LOADERS = {"__import__", "import_module", "resolve_name", "run_module", "spec_from_file_location"}
LAZY = (
    ROOT / "shared_core" / "adapters" / "exports.py"
)  # names no module; its callers do, and their lists are compared below


def imports_by_string(source):
    """The lines that import one of our modules, or one that only run time knows, by its name."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    loads = [c for c in calls if getattr(c.func, "id", getattr(c.func, "attr", None)) in LOADERS]
    return [call.lineno for call in loads if not is_foreign(call)]


def is_foreign(call):
    """True if the call names a module of another project, as text that can be read here."""
    name = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    return isinstance(name, str) and not name.startswith(".") and name.split(".")[0] not in PACKAGES


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_one_of_ours_by_string(package):
    files = [path for path in (ROOT / package).rglob("*.py") if path != LAZY]
    assert len(files) > 10
    found = {str(path.relative_to(ROOT)): imports_by_string(path.read_text(encoding="utf-8")) for path in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ('import importlib\nimportlib.import_module("shared_core.engine")', [2]),
        ("from importlib import import_module\nimport_module(name)", [2]),
        ('__import__("iccache_langchain")', [1]),
        ('import_module(".run", "x")', [1]),
        ('import_module("faiss")', []),
    ],
)
def test_an_import_by_string_is_found(source, lines):
    assert imports_by_string(source) == lines


ADAPTERS = ("iccache_langchain", "iccache_llamaindex")


def lists_of(source):
    """What a package's `__init__` imports for type checkers, and what its table imports at run time."""
    (branch,) = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imports = {
        node.module: tuple(ast.unparse(name) for name in node.names)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
    }
    (table,) = [node.value for node in branch.orelse if isinstance(node, ast.AnnAssign)]
    return imports, ast.literal_eval(table)


@pytest.mark.parametrize("package", ADAPTERS)
def test_what_is_imported_by_string_is_what_type_checkers_and_import_linter_see(package):
    imports, table = lists_of((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    assert imports == table
    names = [name.split(" as ")[-1] for listed in table.values() for name in listed]
    public = importlib.import_module(package).__all__
    assert sorted([*names, "__version__"]) == sorted(public)


def test_the_lazy_helper_itself_names_no_module():
    (call,) = [
        node
        for node in ast.walk(ast.parse(LAZY.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module"
    ]
    assert isinstance(call.args[0], ast.Name)
    strings = [n.value for n in ast.walk(ast.parse(LAZY.read_text(encoding="utf-8"))) if isinstance(n, ast.Constant)]
    assert [s for s in strings if isinstance(s, str) and s.startswith(tuple(f"{p}." for p in PACKAGES))] == []
