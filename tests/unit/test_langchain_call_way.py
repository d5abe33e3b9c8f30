"""The way of a call through the files of `ICCacheChatModel`: a reader who follows it opens no file twice."""

import asyncio
import sys
from pathlib import Path

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from iccache_langchain import ICCacheChatModel
from tests.embedding import Words

OURS = ("iccache_langchain", "shared_core")
METHODS = ("invoke", "ainvoke", "stream", "astream")


def file_of(frame):
    """The name of a file of ours; empty for any other."""
    path = Path(frame.f_code.co_filename)
    return path.name if path.parent.name in OURS or path.parent.parent.name in OURS else ""


class Returns:
    """Notes each file of ours that calls back into the chat model, from which the call came."""

    def __init__(self):
        self.files = []

    def __enter__(self):
        self.before = sys.getprofile()
        sys.setprofile(self.note)
        return self

    def __exit__(self, *_):
        sys.setprofile(self.before)

    def note(self, frame, event, _):
        if event == "call" and file_of(frame) == "chat_model.py" and frame.f_back is not None:
            caller = file_of(frame.f_back)
            if caller not in ("", "chat_model.py"):
                self.files.append(f"{caller}: {frame.f_code.co_name}")


async def collected(chunks):
    return [chunk async for chunk in chunks]


@pytest.mark.parametrize("method", METHODS)
def test_no_file_calls_back_into_the_chat_model(method):
    asked = []
    model = ICCacheChatModel(
        arms={name: GenericFakeChatModel(messages=iter([AIMessage("fine")])) for name in ("small", "large")},
        reference="large",
        costs={"small": 0.1},
        store="memory://",
        embedder=Words(),
        query_fn=lambda messages: asked.append(messages) or messages[-1].content,
        background=False,
    )
    ask = getattr(model, method)
    with Returns() as returns:
        if method == "invoke":
            ask("heat the kitchen")
        elif method == "stream":
            list(ask("heat the kitchen"))
        else:
            asyncio.run(collected(ask("heat the kitchen")) if method == "astream" else ask("heat the kitchen"))
    model.close()
    assert len(asked) == 1
    assert returns.files == []
