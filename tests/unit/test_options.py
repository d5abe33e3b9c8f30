"""Misused constructor options are refused by every surface, in the same words and before anything is opened."""

import inspect
import pydoc
import re
from pathlib import Path

import pytest
from langchain_core.language_models import BaseChatModel
from llama_index.core.llms import LLM

from iccache_langchain import (
    ICCache,
    ICCacheCallbackHandler,
    ICCacheChatModel,
    ICCacheExampleSelector,
    ICCacheMiddleware,
)
from iccache_langchain.options import ChatModelOptions
from iccache_llamaindex import ICCacheEventHandler, ICCacheLLM, ICCachePostprocessor
from iccache_llamaindex.llm import _ARM_FIELDS, LLMOptions
from iccache_llamaindex.postprocessor import PostprocessorOptions
from shared_core.adapters.options import EngineOptions, RoutingOptions, SettingsOptions
from shared_core.errors import ConfigurationError
from shared_core.settings import Settings

ROOT = Path(__file__).parents[2]
EXAMPLE_SURFACES = [ICCache, ICCacheCallbackHandler, ICCacheEventHandler, ICCacheExampleSelector, ICCachePostprocessor]
UNKNOWN = [
    ("max_exampels", "max_examples"),
    ("embeder", "embedder"),
    ("strict_scop", "strict_scope"),
]


def embed_words(texts):
    return [[1.0, 0.0] for _ in texts]


@pytest.mark.parametrize("surface", EXAMPLE_SURFACES)
@pytest.mark.parametrize(
    ("given", "says"),
    [
        *(({wrong: None}, f"takes no {wrong}; did you mean {right}?") for wrong, right in UNKNOWN),
        ({"costs": {"small": 0.1}}, "takes no costs"),
        ({"reward": len}, "takes no reward"),
        ({"background": False}, "takes no background"),
        ({"deadline": -1.0}, "deadline is -1.0; it must be a number above 0"),
        ({"task": ""}, "task must be a non-empty string"),
        ({"strict_scope": True, "scope": "a"}, "scope= has no effect with strict_scope=True; pass only one"),
    ],
)
def test_misuse_is_refused_in_the_same_words(surface, given, says, tmp_path):
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        surface(f"sqlite:///{tmp_path}/pool.db", **{"embedder": embed_words} | given)
    assert not list(tmp_path.iterdir()), "nothing is opened before the arguments are checked"


@pytest.mark.parametrize(
    ("surface", "wrong", "right"),
    [
        (ICCacheChatModel, "refrence", "reference"),
        (ICCacheChatModel, "cost", "costs"),
        (ICCacheChatModel, "verbos", "verbose"),
        (ICCacheMiddleware, "refrence", "reference"),
        (ICCacheLLM, "refrence", "reference"),
        (ICCacheLLM, "sytem_prompt", "system_prompt"),
        (ICCache, "refrence", "reference"),
        (ICCache, "answer_wiht", "answer_with"),
        (ICCacheCallbackHandler, "query_func", "query_fn"),
        (ICCacheEventHandler, "refrence", "reference"),
        (ICCacheExampleSelector, "input_ky", "input_key"),
        (ICCachePostprocessor, "shwo", "show"),
        (ICCachePostprocessor, "callback_manger", "callback_manager"),
    ],
)
def test_an_option_is_guessed_from_all_that_the_surface_takes(surface, wrong, right):
    says = rf"^{surface.__name__} takes no {wrong}; did you mean {right}\?$"
    with pytest.raises(ConfigurationError, match=says):  # although required arguments are missing
        surface(**{wrong: None})


@pytest.mark.parametrize("surface", [ICCacheChatModel, ICCacheLLM, ICCacheMiddleware])
def test_a_missing_argument_is_named(surface):
    name = surface.__name__
    with pytest.raises(ConfigurationError, match=f"{name} needs arms and reference; pass {name}"):
        surface()
    with pytest.raises(ConfigurationError, match=f"{name} needs reference; pass {name}"):
        surface(arms={})
    with pytest.raises(
        ConfigurationError, match=rf"{name} takes nothing without a name; .*: {name}\(arms=…, reference=…\)"
    ):
        surface({})


def test_only_the_store_needs_no_name():
    with pytest.raises(
        ConfigurationError, match=r"ICCache takes only store without a name; .*: ICCache\(store=…, query_fn=…\)"
    ):
        ICCache("memory://", len)


@pytest.mark.parametrize("surface", EXAMPLE_SURFACES)
def test_settings_are_arguments_of_every_surface(surface):
    built = surface("memory://", embedder=embed_words, max_examples=2)
    assert built.engine.settings.max_examples == 2
    built.close()


def described(documented):
    """The entries under ``Attributes:`` or ``Args:`` of a docstring, without line breaks."""
    entries = re.findall(
        r"^    (\w+): (.*(?:\n     .*)*)", inspect.cleandoc(documented.__doc__).split("Raises:")[0], re.MULTILINE
    )
    return {name: " ".join(text.split()) for name, text in entries}


@pytest.mark.parametrize(
    ("options", "bases"),
    [
        (SettingsOptions, []),
        (EngineOptions, [SettingsOptions]),
        (RoutingOptions, [EngineOptions, SettingsOptions]),
        (ChatModelOptions, [RoutingOptions, EngineOptions, SettingsOptions]),
        (LLMOptions, [RoutingOptions, EngineOptions, SettingsOptions]),
        (PostprocessorOptions, [EngineOptions, SettingsOptions]),
    ],
)
def test_each_option_is_described_once(options, bases):
    inherited = {name for base in bases for name in base.__annotations__}
    assert described(options).keys() == options.__annotations__.keys() - inherited


def test_each_setting_is_described_as_it_is_in_the_settings():
    assert described(SettingsOptions) == {n: " ".join(f.description.split()) for n, f in Settings.model_fields.items()}


def wordings(argument, surfaces):
    return {surface: described(surface)[argument] for surface in surfaces}


def test_every_surface_describes_an_argument_in_the_same_words():
    stores = wordings("store", [*EXAMPLE_SURFACES, RoutingOptions])
    required = stores.pop(ICCache)  # it has no default
    assert len(set(stores.values())) == 1
    assert required.split(";")[0] == next(iter(stores.values())).split(";")[0]
    condensing = wordings(
        "query_fn", [ICCache, ICCacheCallbackHandler, ICCacheChatModel, ICCacheMiddleware, ICCacheLLM]
    )
    assert {
        re.sub("LangChain|LlamaIndex", "", text).split("there are no examples.")[0] for text in condensing.values()
    } == {
        "Condenses a conversation ( messages) into the text that is embedded; later turns may then become examples. "
        "If it fails, "
    }
    trusted = wordings("reference", [ICCache, ICCacheCallbackHandler, ICCacheEventHandler])
    assert {re.sub("LangChain|LlamaIndex", "", text).split(".")[0] for text in trusted.values()} == {
        "The model whose answers may become examples, as its  class names it; by default every model that gives its name"
    }
    yardstick = wordings("reference", [ICCacheChatModel, ICCacheMiddleware, ICCacheLLM])
    assert len({text.split(" before its first token")[0].split(". It gets")[0] for text in yardstick.values()}) == 1


def test_each_field_of_the_base_classes_is_typed():
    assert BaseChatModel.model_fields.keys() <= ChatModelOptions.__optional_keys__
    assert LLM.model_fields.keys() - _ARM_FIELDS.keys() - {"callback_manager"} <= LLMOptions.__optional_keys__


OPTIONS = {
    ICCache: EngineOptions,
    ICCacheCallbackHandler: EngineOptions,
    ICCacheChatModel: ChatModelOptions,
    ICCacheEventHandler: EngineOptions,
    ICCacheExampleSelector: EngineOptions,
    ICCacheLLM: LLMOptions,
    ICCacheMiddleware: RoutingOptions,
    ICCachePostprocessor: PostprocessorOptions,
}


@pytest.mark.parametrize(("surface", "options"), OPTIONS.items(), ids=lambda part: part.__name__)
def test_help_shows_what_the_constructor_takes(surface, options):
    shown = inspect.signature(surface).parameters
    declared = surface.__init__.__annotations__.keys() - {"options", "return"}
    assert shown.keys() == declared | options.__annotations__.keys()
    assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in shown.values())
    assert {name: shown[name].default for name in Settings.model_fields} == {
        name: field.default for name, field in Settings.model_fields.items()
    }
    first = pydoc.plain(pydoc.render_doc(surface)).split("\n")[3]
    assert f"{surface.__name__}(" in first and "quality_target: 'float' = 0.9" in first


def rows(surface, names, texts):
    """The rows of a table in docs/settings.md: each argument with its default and its description."""
    shown = inspect.signature(surface).parameters
    return [f"| `{name}` | {default_of(shown[name])} | {texts[name].replace('``', '`')} |" for name in names]


def default_of(parameter):
    if parameter.default is parameter.empty:
        return "required"
    return (
        "the framework's own"
        if parameter.default is ...
        else f"`{getattr(parameter.default, 'name', parameter.default)!r}`"
    )


def rows_of_page(heading, end="\n## "):
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8").split(f"\n{heading}\n")[1].split(end)[0]
    return [line for line in page.splitlines() if line.startswith("| `")]


def test_the_page_of_settings_lists_the_shared_options_as_they_are():
    texts = described(EngineOptions) | described(RoutingOptions)
    assert rows_of_page("## Options of the constructors") == rows(ICCacheMiddleware, texts, texts)


@pytest.mark.parametrize(("surface", "options"), OPTIONS.items(), ids=lambda part: part.__name__)
def test_the_page_of_settings_lists_what_else_each_class_takes(surface, options):
    shared = RoutingOptions if "costs" in options.__annotations__ else EngineOptions
    others = [name for name in inspect.signature(surface).parameters if name not in shared.__annotations__]
    texts = described(options) | described(surface)
    assert rows_of_page(f"### `{surface.__name__}`", "\n##") == rows(surface, others, texts)


def test_a_subclass_shows_its_own_constructor():
    class Shared(ICCache):
        def __init__(self, tenant: str):
            super().__init__("memory://", scope=tenant)

    class Routed(ICCacheChatModel):
        def __init__(self, *, arms: dict, reference: str = "large"):
            super().__init__(arms=arms, reference=reference)

    assert list(inspect.signature(Shared).parameters) == ["tenant"]
    assert list(inspect.signature(Routed).parameters) == ["arms", "reference"]
