"""Users import an adapter and nothing else: all that its surfaces take, return and raise is there."""

import ast
import builtins
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADAPTERS = ("iccache_langchain", "iccache_llamaindex")
PACKAGES = (*ADAPTERS, "shared_core")
RAISES = re.compile(r"^Raises:\n((?:(?:    .*)?\n?)+)", re.MULTILINE)


def raised_in(docstring):
    """The exceptions that a docstring names under ``Raises:``."""
    section = RAISES.search(inspect.cleandoc(docstring or ""))
    entries = re.findall(r"^    (\w+(?:, \w+)*):", section[1], re.MULTILINE) if section else []
    return {name for entry in entries for name in entry.split(", ")}


def documented(thing):
    """A public object's own docstring, and those of our public methods that it has."""
    yield thing.__doc__
    if inspect.isclass(thing):
        for name in dir(thing):
            found = inspect.getattr_static(thing, name)
            method = getattr(found, "__func__", getattr(found, "fget", found))
            if not name.startswith("_") and str(getattr(method, "__module__", "")).startswith(PACKAGES):
                yield method.__doc__


@pytest.mark.parametrize("package", ADAPTERS)
def test_every_exception_that_a_public_docstring_names_can_be_imported(package):
    module = importlib.import_module(package)
    raised = {}
    for public in set(module.__all__) - {"Store"}:  # only the core calls a store
        for docstring in documented(getattr(module, public)):
            raised |= dict.fromkeys(raised_in(docstring), public)
    assert {"ConfigurationError", "NotFromICCache", "StoreIsUnusable"} <= raised.keys()
    assert {name: by for name, by in raised.items() if name not in module.__all__ and not hasattr(builtins, name)} == {}


def test_exceptions_of_a_docstring_are_found():
    text = """Do it.

        Raises:
            First: It fails,
                or: not.
            Second, Third: See there.
    """
    assert raised_in(text) == {"First", "Second", "Third"}
    assert raised_in("Do it. Raises nothing.") == set()


@pytest.mark.parametrize("package", ADAPTERS)
def test_an_engine_can_be_used_without_the_core(package):
    public = importlib.import_module(package)
    arms = [public.Arm("small", 0.1), public.Arm("large", 1.0, uses_examples=False)]
    engine = public.Engine(
        store="memory://", arms=arms, reference="large", background=False, settings=public.ICCacheSettings(explore=0.0)
    )
    try:
        request = public.Request((public.Message("user", "How?"),), "How?")
        decision = engine.decide(request)
        engine.record(decision, public.Outcome("So."))
        assert decision.arm in engine.arms
        assert engine.feedback(decision.id, 1.0)
    finally:
        engine.close()


def test_both_packages_give_the_core_the_same_names():
    names = {package: set(importlib.import_module(package).__all__) for package in ADAPTERS}
    core = {
        package: {
            name
            for name in listed - {"__version__"}
            if str(getattr(getattr(importlib.import_module(package), name), "__module__", "")).startswith("shared_core")
        }
        for package, listed in names.items()
    }
    assert core["iccache_langchain"] == core["iccache_llamaindex"]
    assert {"ICCacheSettings", "Arm", "Request", "Outcome", "Embedder", "DependencyIsSlow"} <= core["iccache_langchain"]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_error_directs_a_user_to_the_core(package):
    found = []
    for path in (ROOT / package).rglob("*.py"):
        raises = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Raise)]
        strings = [
            n.value for r in raises for n in ast.walk(r) if isinstance(n, ast.Constant) and isinstance(n.value, str)
        ]
        found += [(path.name, text) for text in strings if "shared_core" in text]
    assert found == []


STAR = """
import sys

for name in {absent}:
    sys.modules[name] = None  # as if it were not installed
from {package} import *

assert Engine and as_model
assert ("ICCacheMiddleware" in globals()) is {middleware}, sorted(globals())
if not {middleware} and {package!r} == "iccache_langchain":
    import iccache_langchain

    try:
        iccache_langchain.ICCacheMiddleware
    except ExtraIsMissing as error:
        assert "pip install 'iccache[agents]'" in str(error)
    else:
        raise SystemExit("the missing extra was not reported")
"""


@pytest.mark.parametrize(
    ("package", "absent", "middleware"),
    [
        ("iccache_langchain", ["langchain", "langgraph", "openai", "transformers", "torch", "redis", "faiss"], False),
        ("iccache_langchain", [], True),
        ("iccache_llamaindex", ["langchain", "openai", "transformers", "torch", "redis", "faiss"], False),
    ],
)
def test_a_star_import_works_with_the_extras_that_are_installed(package, absent, middleware):
    code = STAR.format(package=package, absent=absent, middleware=middleware)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
