"""Whatever a constructor reads its settings from, what is wrong there is a ConfigurationError that names it."""

import pytest
from langchain_core.language_models import FakeListChatModel

from iccache_langchain import ICCache, ICCacheCallbackHandler, ICCacheChatModel, ICCacheExampleSelector, ICCacheSettings
from iccache_llamaindex import ICCachePostprocessor
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError
from shared_core.settings import PART_PREFIXES, Settings
from shared_core.telemetry import forget_warnings
from tests.embedding import Words


def chat_model(**knobs):
    arms = {name: FakeListChatModel(responses=[name]) for name in ("small", "large")}
    return ICCacheChatModel(
        arms=arms,
        reference="large",
        costs={"small": 0.1},
        store="memory://",
        embedder=Words(),
        background=False,
        **knobs,
    )


def near_cache():
    small = FakeListChatModel(responses=["small"])
    return ICCache("memory://", embedder=Words(), answer_with=small)


BUILDERS = {
    "engine": lambda: Engine(store="memory://", background=False),
    "chat model": chat_model,
    "chat model with a knob": lambda: chat_model(explore=0.2),
    "chat model with settings and a knob": lambda: chat_model(settings=Settings.model_construct(), explore=0.2),
    "chat model with settings": lambda: chat_model(settings=ICCacheSettings(explore=0.2)),
    "cache": lambda: ICCache("memory://"),
    "near cache": near_cache,
    "callbacks": lambda: ICCacheCallbackHandler(store="memory://", embedder=Words()),
    "example selector": lambda: ICCacheExampleSelector(store="memory://", embedder=Words()),
    "postprocessor": lambda: ICCachePostprocessor("memory://", embedder=Words()),
    "postprocessor of a dict": lambda: ICCachePostprocessor("memory://", embedder=Words(), settings={"explore": 0.2}),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_a_variable_that_cannot_be_used_is_named(build, monkeypatch):
    monkeypatch.setenv("ICCACHE_MAX_EXAMPLES", "many")
    with pytest.raises(
        ConfigurationError, match="^ICCACHE_MAX_EXAMPLES is 'many'; it must be a whole number from 0 to 50$"
    ):
        build()


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_a_file_that_cannot_be_used_is_named(build, folder):
    (folder / "iccache.toml").write_text("max_examples = = 3")
    with pytest.raises(ConfigurationError, match="^iccache.toml is not TOML"):
        build()


def test_what_code_gives_is_not_blamed_on_variable_or_file(monkeypatch):
    monkeypatch.setenv("ICCACHE_DEADLINE", "1")
    with pytest.raises(ConfigurationError, match="^deadline is -1; it must be a number above 0$"):
        chat_model(deadline=-1)
    with pytest.raises(ConfigurationError, match=r"^deadlin is not a setting; did you mean deadline\?$"):
        ICCachePostprocessor("memory://", embedder=Words(), settings={"deadlin": 1})


def test_what_code_gives_stands_over_what_cannot_be_used(monkeypatch):
    monkeypatch.setenv("ICCACHE_MAX_EXAMPLES", "many")
    assert Settings(max_examples=3).max_examples == 3


def test_a_file_that_may_not_be_read_is_named(folder, monkeypatch):
    (folder / "iccache.toml").touch()

    def refused(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refused)
    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(ConfigurationError, match="iccache.toml cannot be read: Permission denied"):
        Settings()


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_a_misspelt_variable_is_named_with_the_nearest_right_one(build, monkeypatch, caplog):
    monkeypatch.setenv("ICCACHE_MAX_EXAMPELS", "3")
    monkeypatch.setenv("ICCACHE_ZZZ", "1")
    monkeypatch.setenv("ICCACHE_DATA", "/data")
    monkeypatch.setenv("ICCACHE_EXPLORE", "0.3")
    forget_warnings()
    built = build()
    built.close()
    said = [record.getMessage() for record in caplog.records if record.name == "iccache.settings"]
    assert said == [
        "the environment variable ICCACHE_MAX_EXAMPELS is not a setting and has no effect; "
        "did you mean ICCACHE_MAX_EXAMPLES?",
        "the environment variable ICCACHE_ZZZ is not a setting and has no effect; docs/settings.md lists all",
    ]


def test_settings_that_a_user_builds_are_refused_in_the_same_words():
    with pytest.raises(ConfigurationError, match="^deadline is -1; it must be a number above 0$"):
        ICCacheSettings(deadline=-1)
    with pytest.raises(ConfigurationError, match=r"^deadlin is not a setting; did you mean deadline\?$"):
        ICCacheSettings(deadlin=1)


OLDER_THAN_THE_RULE = {
    "candidates", "max_examples", "example_tokens", "relevance_quantile", "duplicate_similarity", "quality_target",
    "cost_weight", "confidence", "explore", "seed", "max_pool", "decision_ttl", "trust_feedback", "deadline", "workers",
    "refresh", "learn_every", "drain",
}  # fmt: skip


def test_a_new_knob_is_named_after_its_part():
    new = Settings.model_fields.keys() - OLDER_THAN_THE_RULE
    assert [name for name in new if not name.startswith(PART_PREFIXES)] == []
