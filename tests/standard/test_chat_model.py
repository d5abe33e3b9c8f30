"""LangChain's own conformance suites for chat models, against a scripted server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from iccache_langchain import ICCacheChatModel
from tests.embedding import Words
from tests.openai_server import openai_server

NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with openai_server() as server:
        yield server.url


def params(url: str) -> dict[str, Any]:
    return {
        "arms": {
            name: ChatOpenAI(base_url=url, api_key="none", model=name, stream_usage=True) for name in ("small", "large")
        },
        "reference": "large",
        "costs": {"small": 0.1},
        "store": "memory://",
        "embedder": Words(),
        "explore": 1.0,
        "relevance_quantile": 0.0,
        "reward": lambda request, answer: 1.0,
        "background": False,
    }


@pytest.mark.filterwarnings("ignore:.*each arm has a client of its own")
class TestUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ICCacheChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return params(NOWHERE)


@pytest.mark.filterwarnings("ignore:.*each arm has a client of its own")
class TestIntegration(ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _server(self, url: str) -> None:
        self.url = url

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ICCacheChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return params(self.url)

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return False

    @property
    def model_override_value(self) -> str | None:
        return "another"
