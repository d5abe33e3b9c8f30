"""The way of a call through the files of a router: a reader who follows it opens no file twice."""

import asyncio
import inspect
import sys
from pathlib import Path

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from llama_index.core.llms import ChatMessage, MockLLM

from iccache_langchain import ICCacheChatModel
from iccache_llamaindex import ICCacheLLM
from tests.embedding import Words

OURS = ("iccache_langchain", "iccache_llamaindex", "shared_core")
ROUTED = {"reference": "large", "costs": {"small": 0.1}, "store": "memory://", "embedder": Words(), "background": False}


def file_of(frame):
    """The name of a file of ours; empty for any other."""
    path = Path(frame.f_code.co_filename)
    return path.name if path.parent.name in OURS or path.parent.parent.name in OURS else ""


class Returns:
    """Notes each file of ours that calls back into the router's own file, from which the call came."""

    def __init__(self, router):
        self.router, self.files = router, []

    def __enter__(self):
        self.before = sys.getprofile()
        sys.setprofile(self.note)
        return self

    def __exit__(self, *_):
        sys.setprofile(self.before)

    def note(self, frame, event, _):
        if event == "call" and file_of(frame) == self.router and frame.f_back is not None:
            caller = file_of(frame.f_back)
            if caller not in ("", self.router):
                self.files.append(f"{caller}: {frame.f_code.co_name}")


async def collected(made):
    """The answer of an asynchronous call, or the pieces of its stream."""
    made = made if hasattr(made, "__aiter__") else await made
    return [piece async for piece in made] if hasattr(made, "__aiter__") else made


def noted(model, router, method, asked):
    """The files that call back into `router` while a call of this method is answered."""
    with Returns(router) as returns:
        made = getattr(model, method)(asked)
        if inspect.isawaitable(made) or hasattr(made, "__aiter__"):
            asyncio.run(collected(made))
        elif hasattr(made, "__next__"):
            list(made)
    model.close()
    return returns.files


@pytest.mark.parametrize("method", ["invoke", "ainvoke", "stream", "astream"])
def test_no_file_calls_back_into_the_chat_model(method):
    read = []
    arms = {name: GenericFakeChatModel(messages=iter([AIMessage("fine")])) for name in ("small", "large")}
    model = ICCacheChatModel(arms=arms, query_fn=lambda messages: read.append(1) or messages[-1].content, **ROUTED)
    assert noted(model, "chat_model.py", method, "heat the kitchen") == []
    assert read == [1]


@pytest.mark.parametrize("method", ["chat", "achat", "stream_chat", "astream_chat", "complete", "astream_complete"])
def test_no_file_calls_back_into_the_llm(method):
    read = []
    arms = {name: MockLLM() for name in ("small", "large")}
    llm = ICCacheLLM(arms=arms, query_fn=lambda messages: read.append(1) or messages[-1].content, **ROUTED)
    asked = "heat the kitchen" if "complete" in method else [ChatMessage("heat the kitchen")]
    assert noted(llm, "llm.py", method, asked) == []
    assert read == [1]
