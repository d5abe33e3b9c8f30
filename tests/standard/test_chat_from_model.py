"""LangChain's own conformance suites for a chat model that is made from a `Model`.

A `Model` takes texts only, so the suites leave out their tests of tools, structured output and images. It is an object
that is given: there is no key to be read from the environment, nothing to serialise, and no other model to name in a call.
"""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from iccache_langchain import ChatFromModel
from tests.models import ScriptedStream


class _Texts:
    has_tool_calling = False
    has_structured_output = False

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatFromModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": ScriptedStream("Hello, this is a scripted answer.")}


class TestUnit(_Texts, ChatModelUnitTests):
    pass


class TestIntegration(_Texts, ChatModelIntegrationTests):
    pass
