"""Arguments that make no sense are refused where a surface is built, with the argument, the value and the remedy."""

import pytest
from langchain_core.language_models import FakeListChatModel

from iccache_langchain import ICCacheChatModel
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
