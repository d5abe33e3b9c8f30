"""A store that cannot be used is refused first, shortly and in our words; a path is a store, too."""

import re
import time
import traceback
from pathlib import Path

import pytest
from langchain_core.language_models import FakeListChatModel

from iccache_langchain import ICCache, ICCacheCallbackHandler, ICCacheChatModel, ICCacheExampleSelector
from iccache_llamaindex import ICCacheEventHandler, ICCachePostprocessor
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError, StoreIsUnusable
from shared_core.inference.embedders import SentenceTransformerEmbedder
from shared_core.settings import Settings
from shared_core.store import open_store
from tests.embedding import Words

OF_EXAMPLES = [ICCache, ICCacheCallbackHandler, ICCacheEventHandler, ICCacheExampleSelector, ICCachePostprocessor]


def chat(store, **given):
    arms = {name: FakeListChatModel(responses=[name]) for name in ("small", "large")}
    options = {"costs": {"small": 0.1}, "embedder": Words(), "background": False}
    return ICCacheChatModel(**{"arms": arms, "reference": "large", "store": store} | options | given)


def engine(store, **given):
    return Engine(store=store, background=False, **given)


def refusal(error, call, *args, **given):
    with pytest.raises(error) as caught:
        call(*args, **given)
    lines = "".join(traceback.format_exception(caught.value)).splitlines()
    assert len(lines) <= 40, "\n".join(lines)
    return str(caught.value)


@pytest.mark.parametrize("surface", [chat, engine, *OF_EXAMPLES])
@pytest.mark.parametrize(("store", "kind"), [(3, "an int"), (["redis://:hunter2@h"], "a list"), (Words(), "a Words")])
def test_a_store_of_another_kind_is_named(surface, store, kind):
    given = {} if surface is engine else {"embedder": Words()}
    assert refusal(ConfigurationError, surface, store, **given) == (
        f"store is {kind}; pass a URL such as 'sqlite:///iccache.db', the path of a SQLite file, or an open store"
    )


@pytest.mark.parametrize("surface", [chat, *OF_EXAMPLES])
def test_a_path_is_the_store_of_its_file(surface, tmp_path):
    path = tmp_path / "a pool%20.db"
    made = surface(path, embedder=Words())
    made.engine.add_examples([("How?", "So.")], scope="default", task="t")
    made.close()
    again = open_store(f"sqlite:///{path}", settings=Settings())
    assert again.count("default") == 1
    again.close()
    assert path.is_file()


def test_the_written_form_of_a_postprocessor_holds_its_path(tmp_path):
    made = ICCachePostprocessor(tmp_path / "pool.db", embedder=Words())
    made.close()
    assert made.store == made.to_dict()["store"] == f"sqlite:///{tmp_path}/pool.db"


def test_a_tilde_is_the_folder_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    open_store("sqlite:///~/pool.db", settings=Settings()).close()
    open_store("sqlite:///~/pool.db", settings=Settings()).close()
    assert (tmp_path / "pool.db").is_file()
    said = refusal(ConfigurationError, engine, "sqlite:///~nobody-of-that-name/pool.db")
    assert "begins with the home of a user who has none; write out the path" in said


@pytest.mark.parametrize(
    ("end", "names"),
    [("?pool=3", "pool"), ("?timeout=30", "timeout"), ("?pool=3&x", "pool, x"), ("?mode=rw", "mode"), ("?", "")],
)
@pytest.mark.parametrize("as_path", [False, True])
def test_a_sqlite_url_takes_no_other_options(end, names, as_path, tmp_path):
    file = f"{tmp_path}/pool.db{end}"
    said = refusal(ConfigurationError, engine, Path(file) if as_path else f"sqlite:///{file}")
    assert said == f"the SQLite URL has unknown options {names!r}; the only one is ?mode=ro, to read only"
    assert not list(tmp_path.iterdir())


def test_a_path_with_a_null_is_refused():
    said = refusal(ConfigurationError, engine, "sqlite:///\0")
    assert "has no file path; use sqlite:///relative.db" in said


def test_a_path_that_is_no_utf8_is_refused():
    said = refusal(ConfigurationError, engine, "sqlite:///\ud800.db")
    assert said.endswith("has a character that SQLite takes in no path; use a path that is valid UTF-8")


def test_a_misspelt_redis_option_learns_of_the_pool():
    said = refusal(ConfigurationError, engine, "redis://127.0.0.1:1/0?pol=x")
    assert re.search(r"unknown options pol; known: client_name, db, .*, pool, ", said)


class TestTheStoreComesFirst:
    """Loading a model takes seconds, so a wrong store is reported before."""

    @pytest.fixture
    def loads(self, monkeypatch):
        loads = []

        def warm(self):
            loads.append(self.tag)
            raise ConfigurationError("the embedder cannot be loaded")

        monkeypatch.setattr(SentenceTransformerEmbedder, "warm", warm)
        return loads

    @pytest.mark.parametrize("surface", [chat, *OF_EXAMPLES])
    @pytest.mark.parametrize("url", ["sqlite:////no/such/folder/pool.db", "redis://127.0.0.1:1/0"])
    def test_a_wrong_store_needs_no_model(self, surface, url, loads):
        began = time.perf_counter()
        refusal(StoreIsUnusable, surface, url, embedder="no/such-model")
        assert loads == []
        assert time.perf_counter() - began < 5.0

    @pytest.mark.parametrize("surface", [chat, *OF_EXAMPLES])
    def test_a_model_that_cannot_be_loaded_closes_the_store(self, surface, loads, monkeypatch):
        closed = []
        close = Engine.close
        monkeypatch.setattr(Engine, "close", lambda self: closed.append(close(self)))
        refusal(ConfigurationError, surface, "memory://", embedder="no/such-model")
        assert (loads, closed) == (["no/such-model"], [None])


def test_the_error_of_a_model_comes_without_the_libraries_traceback(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = refusal(ConfigurationError, chat, "memory://", embedder="no-such-owner/no-such-model")
    assert said.startswith("the embedder 'no-such-owner/no-such-model' cannot be loaded (")


def test_the_error_of_a_setting_comes_without_pydantics():
    assert refusal(ConfigurationError, Settings, max_examples="x").startswith("max_examples is 'x'; it must be a whole")
    with pytest.raises(ConfigurationError) as caught:
        chat("memory://", max_examples=-1)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_an_engine_names_what_is_of_another_kind():
    arms = "arms must be a list of Arm, such as [Arm('small', 0.1), Arm('large', 1.0)]"
    assert refusal(ConfigurationError, engine, "memory://", arms={"small": 0.1}, reference="small") == arms
    assert refusal(ConfigurationError, engine, "memory://", arms=["small"], reference="small") == arms
    for settings, kind in (({"seed": 1}, "a dict"), (3, "an int")):
        said = refusal(ConfigurationError, engine, "memory://", settings=settings)
        assert said.startswith(f"settings is {kind}; pass ICCacheSettings(")
    said = refusal(ConfigurationError, engine, "memory://", embedder="all-MiniLM-L6-v2")
    assert said == "embedder is a str; pass as_embedder(…) of it"
