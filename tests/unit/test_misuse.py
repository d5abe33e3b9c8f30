"""Arguments that make no sense are refused where a surface is built, with the argument, the value and the remedy."""

import pytest
from langchain_core.language_models import FakeListChatModel
from llama_index.core.llms import MockLLM

from iccache_langchain import ICCache, ICCacheChatModel, ICCacheMiddleware
from iccache_llamaindex import ICCacheLLM
from shared_core.errors import ConfigurationError
from shared_core.inference.embedders import as_embedder
from tests.embedding import Words


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"reward": 0.5}, "reward is 0.5; pass a function"),
        ({"redact": "x"}, "redact is 'x'; pass a function"),
        ({"styles": {"small": "prompt"}}, r"styles\['small'\] is 'prompt'; pass one of chat, paper"),
        ({"costs": {"small": float("nan")}}, r"costs\['small'\] is nan; pass a number"),
        ({"costs": {"small": float("inf")}}, r"costs\['small'\] is inf; pass a number"),
        ({"costs": {"small": True}}, r"costs\['small'\] is True; pass a number"),
        ({"costs": {"small": 10**400}}, r"costs\['small'\] is 1000"),
        ({"costs": 0.1}, "costs is a float; pass a mapping"),
        ({"styles": "chat"}, "styles is a str; pass a mapping"),
        ({"costs": {"small": "cheap"}}, r"costs\['small'\] is 'cheap'; pass a number"),
        ({"embedder": lambda texts: texts}, r"give as_embedder\(function, tag='my-model-v1'\) of iccache_langchain or"),
    ],
)
def test_a_misuse_is_named(wrong, says):
    arms = {name: FakeListChatModel(responses=[name]) for name in ("small", "large")}
    arguments = {"costs": {"small": 0.1}, "store": "memory://", "embedder": Words(), "background": False}
    with pytest.raises(ConfigurationError, match=says):
        ICCacheChatModel(arms=arms, reference="large", **(arguments | wrong))


def test_a_model_of_another_dimension_is_another_embedder():
    class OfferedEmbeddings:
        def __init__(self, dimensions=None):
            self.model, self.dimensions = "text-embedding-3-large", dimensions

        def embed_documents(self, texts):
            return [[1.0] * (self.dimensions or 3) for _ in texts]

    tags = [as_embedder(OfferedEmbeddings(dimensions)).tag for dimensions in (None, 256, 1024)]
    assert tags == [f"OfferedEmbeddings:text-embedding-3-large{end}" for end in ("", "@256", "@1024")]


class TestArms:
    """A router is no arm, and an arm that costs more than the reference is rarely meant."""

    @staticmethod
    def chat(**given):
        arms = {name: FakeListChatModel(responses=[name]) for name in ("small", "large")}
        fixed = {"reference": "large", "store": "memory://", "embedder": Words(), "background": False}
        return ICCacheChatModel(**{"arms": arms, "costs": {"small": 0.1}, **fixed, **given})

    @pytest.mark.parametrize("name", ["small", "large"])
    def test_a_router_is_no_arm(self, name):
        inner = self.chat()
        says = f"^arm '{name}' is an ICCacheChatModel, which routes by itself; pass its arms instead$"
        models = {"small": FakeListChatModel(responses=["s"]), "large": FakeListChatModel(responses=["l"]), name: inner}
        for build in (self.chat, lambda arms: ICCacheMiddleware(arms=arms, reference="large", costs={"small": 0.1})):
            with pytest.raises(ConfigurationError, match=says):
                build(arms=models)
        inner.close()

    def test_nor_in_llamaindex(self):
        options = {"reference": "large", "costs": {"small": 0.1}, "store": "memory://", "embedder": Words()}
        inner = ICCacheLLM(arms={"small": MockLLM(), "large": MockLLM()}, **options)
        with pytest.raises(ConfigurationError, match="^arm 'small' is an ICCacheLLM, which routes by itself; pass its"):
            ICCacheLLM(arms={"small": inner, "large": MockLLM()}, **options)
        inner.close()

    def test_nor_does_it_answer_for_a_cache(self):
        inner = self.chat()
        with pytest.raises(
            ConfigurationError, match="^answer_with is an ICCacheChatModel, which routes by itself; pass a"
        ):
            ICCache("memory://", embedder=Words(), answer_with=inner)
        inner.close()

    def test_an_arm_dearer_than_the_reference_is_warned_of(self):
        says = (
            r"^costs\['small'\] is 5, more than the 1 of the reference 'large'; so 'small' answers only where it is "
            r"expected to be better than the reference\. If these are prices, give the reference's, too: "
            r"costs=\{'small': 5, 'large': …\}$"
        )
        with pytest.warns(UserWarning, match=says) as warned:
            self.chat(costs={"small": 5.0}).close()
        assert [str(warning.filename) for warning in warned] == [__file__]

    @pytest.mark.parametrize("costs", [{"small": 1.0}, {"small": 5.0, "large": 5.0}, {"small": 0.15, "large": 0.6}])
    def test_no_other_cost_is(self, costs, recwarn):
        self.chat(costs=costs).close()
        assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("threshold", [0.9, 0.999])
def test_a_threshold_without_a_model_that_answers_is_refused(threshold):
    with pytest.raises(ConfigurationError, match="^threshold= has no effect without answer_with=; pass both, or leave"):
        ICCache("memory://", threshold=threshold)


def test_a_threshold_is_a_number():
    small = FakeListChatModel(responses=["s"])
    with pytest.raises(ConfigurationError, match=r"^threshold must be within \[0, 1\], .*; got 'high'$"):
        ICCache("memory://", embedder=Words(), answer_with=small, threshold="high")
    cache = ICCache("memory://", embedder=Words(), answer_with=small)
    assert cache.engine.settings.relevance_quantile == 0.999
    cache.close()
