"""Translation between LlamaIndex and the core, without a server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ImageBlock,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.llms import LLM, MockLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM

from iccache_llamaindex import ICCacheLLM
from iccache_llamaindex.messages import (
    ResponseInfo,
    as_completion,
    decision_id_of,
    insert,
    marked,
    normalised,
    outcome_of,
    has_content,
)
from iccache_llamaindex.answers import LLMAnswers
from shared_core.errors import ConfigurationError, NotFromICCache
from shared_core.values import Decision, Insertion, Message, Request, Route

ROOT = Path(__file__).parents[2]
DECISION = Decision("d1", Request((), "q"), Route("small", reason="because"))


def chat(text="", raw=None, **wanted):
    return ChatResponse(message=ChatMessage(role="assistant", content=text), raw=raw, **wanted)


def test_it_is_an_llm_of_llamaindex_that_calls_functions():
    assert {"LLM", "FunctionCallingLLM", "BaseLLM"} <= {base.__name__ for base in ICCacheLLM.__mro__}
    assert issubclass(ICCacheLLM, LLM) and issubclass(ICCacheLLM, FunctionCallingLLM)


@pytest.mark.parametrize(
    ("role", "ours"),
    [
        ("system", "system"), ("developer", "system"), ("user", "user"), ("assistant", "assistant"),
        ("chatbot", "assistant"), ("model", "assistant"), ("tool", "tool"), ("function", "tool"),
    ],
)  # fmt: skip
def test_every_role_has_ours(role, ours):
    assert normalised([ChatMessage(role=role, content="x")]) == (Message(ours, "x"),)


def test_every_role_of_llamaindex_is_known():
    assert {m.role for m in normalised([ChatMessage(role=role, content="x") for role in MessageRole])} == {
        "system", "user", "assistant", "tool",
    }  # fmt: skip


def test_what_is_sent_beside_the_text_counts_and_what_tells_of_its_making_does_not():
    picture = ImageBlock(url="http://h/cat.png")
    (turn,) = normalised([ChatMessage(role="user", blocks=[TextBlock(text="a"), picture, TextBlock(text="b")])])
    assert turn.text == "a\nb"
    assert json.loads(turn.extra)["blocks"][0]["url"] == "http://h/cat.png"
    call = ToolCallBlock(tool_call_id="1", tool_name="f", tool_kwargs={"x": 1})
    (turn,) = normalised([ChatMessage(role="assistant", blocks=[call], additional_kwargs={"prompt_tokens": 7})])
    assert json.loads(turn.extra)["blocks"][0]["tool_name"] == "f"
    assert "prompt_tokens" not in turn.extra
    (turn,) = normalised([ChatMessage(role="tool", content="5", additional_kwargs={"tool_call_id": "1"})])
    assert json.loads(turn.extra) == {"tool_call_id": "1"}
    assert normalised([ChatMessage(role="user")]) == (Message("user", ""),)


def test_examples_are_put_in_place_and_the_given_messages_stay():
    asked = [ChatMessage(role="system", content="s"), ChatMessage(role="user", content="q")]
    before = [m.model_dump() for m in asked]
    turns = (Message("user", "q0"), Message("assistant", "a0"))
    placed = insert(asked, Insertion(1, turns))
    assert [(m.role.value, m.content) for m in placed] == [
        ("system", "s"), ("user", "q0"), ("assistant", "a0"), ("user", "q"),
    ]  # fmt: skip
    picture = ImageBlock(url="http://h/cat.png")
    pictured = [ChatMessage(role="user", blocks=[TextBlock(text="q"), picture])]
    (rewritten,) = insert(pictured, Insertion(rewrite="all in one"))
    assert (rewritten.content, rewritten.blocks[1]) == ("all in one", picture)
    assert pictured[0].content == "q"
    assert [m.model_dump() for m in asked] == before


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (None, ResponseInfo()),
        ("text", ResponseInfo()),
        ({"choices": [{"finish_reason": "stop"}], "model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
         ResponseInfo("stop", "m", 3, 2, 1)),
        ({"model": "m", "done_reason": "length"}, ResponseInfo("length", "m")),
        ({"stop_reason": "end_turn", "usage": {"input_tokens": 3, "output_tokens": 2}}, ResponseInfo("end_turn", "", 3, 2)),
        ({"choices": [], "usage": None}, ResponseInfo()),
        ({"usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}}, ResponseInfo(prompt_tokens=3, cached_tokens=2)),
        ({"choices": [{"finish_reason": "STOP"}, {"finish_reason": "stop"}]}, ResponseInfo("stop", answers=2)),
    ],
)  # fmt: skip
def test_what_providers_tell_of_an_answer(raw, told):
    assert ResponseInfo.of(chat("x", raw)) == told
    assert ResponseInfo.of(CompletionResponse(text="x", raw=raw)) == told


def test_tokens_are_also_found_where_integrations_put_them():
    told = ResponseInfo.of(chat("x", None, additional_kwargs={"prompt_tokens": 3, "completion_tokens": 2}))
    assert (told.prompt_tokens, told.completion_tokens) == (3, 2)


def test_how_an_answer_ended():
    assert outcome_of(chat("x")).finished  # it does not say, and it is whole
    assert not outcome_of(chat("x", {"choices": [{"finish_reason": "length"}]})).finished
    assert not outcome_of(chat("x", {"choices": [{"finish_reason": "stop"}] * 2})).finished
    called = ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="f", tool_kwargs={})])
    assert outcome_of(ChatResponse(message=called)).tool_calls
    legacy = ChatMessage(role="assistant", additional_kwargs={"tool_calls": [{"id": "1"}]})
    assert outcome_of(ChatResponse(message=legacy)).tool_calls
    assert not outcome_of(chat("x")).tool_calls
    assert outcome_of(CompletionResponse(text="x")).answer == "x"


def test_a_stream_ends_by_itself_only_if_it_says_so():
    def listen(*pieces, ended=True):
        transcript = LLMAnswers(lambda name: MockLLM()).transcript(DECISION)
        for piece in pieces:
            transcript.take(piece)
        return transcript.outcome(ended=ended)

    stop = {"choices": [{"finish_reason": "stop"}], "model": "m"}
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    whole = listen(chat("a"), chat("a b", stop), chat("a b", usage))
    assert (whole.answer, whole.finished, whole.broken_off, whole.writer, whole.prompt_tokens) == (
        "a b",
        True,
        False,
        "m",
        3,
    )
    assert not listen(chat("a")).finished
    assert not listen(chat("a"), chat("a", {"choices": [{"finish_reason": "length"}]})).finished
    left = listen(chat("a", stop), ended=False)
    assert (left.finished, left.broken_off) == (False, True)
    assert listen() is None


def test_a_piece_that_only_opens_the_answer_says_nothing():
    assert not has_content(chat("", delta=""))
    assert not has_content(CompletionResponse(text="", delta=""))
    assert has_content(chat("a", delta="a"))
    assert has_content(CompletionResponse(text="a"))
    assert has_content(
        ChatResponse(message=ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="f", tool_kwargs={})]))
    )


def test_a_mark_leaves_the_arms_response_alone():
    raw = {"choices": []}
    given = chat("x", raw, additional_kwargs={"prompt_tokens": 1})
    said = marked(given, DECISION.provenance())
    assert said.additional_kwargs["iccache"]["arm"] == "small"
    assert said.additional_kwargs["prompt_tokens"] == 1
    assert said.raw is raw
    assert "iccache" not in given.additional_kwargs
    assert decision_id_of(said) == decision_id_of(as_completion(said)) == "d1"
    for wrong in (None, "the answer's text"):
        with pytest.raises(ConfigurationError, match="32 hex digits"):
            decision_id_of(wrong)
    with pytest.raises(NotFromICCache, match="did not come through IC-Cache"):
        decision_id_of(given)


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Blocked())
"""
LANGCHAIN = {"langchain", "langchain_core", "langchain_openai", "langgraph", "langsmith"}
LLAMAINDEX = {"llama_index", "llama_index_instrumentation", "workflows"}


def test_it_works_where_langchain_is_not_installed():
    code = WITHOUT.format(blocked=LANGCHAIN) + (
        "from iccache_llamaindex import *\n"
        "from llama_index.core.llms import MockLLM, ChatMessage\n"
        "from tests.embedding import Words\n"
        "llm = ICCacheLLM(arms={'a': MockLLM(), 'b': MockLLM()}, reference='b', costs={'a': 0.1}, store='memory://',"
        " embedder=Words())\n"
        "print(llm.chat([ChatMessage(role='user', content='x')]).additional_kwargs['iccache']['arm'])\n"
        "llm.close()"
    )
    assert run(code) == "b"


def test_langchains_adapter_works_where_llamaindex_is_not_installed():
    code = WITHOUT.format(blocked=LLAMAINDEX) + "from iccache_langchain import *\nprint(ICCacheChatModel.__name__)"
    assert run(code) == "ICCacheChatModel"


def test_without_llamaindex_the_extra_is_named_in_one_line():
    code = (
        "import importlib.util; found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name.startswith('llama_index') else found(name, package)\n"
        "try:\n    import iccache_llamaindex\nexcept ImportError as error:\n    print(type(error).__name__, error)"
    )
    assert run(code) == "ExtraIsMissing llama-index-core is not installed; run: pip install 'iccache[llamaindex]'"


def test_the_package_is_imported_lazily_and_names_what_it_has():
    code = (
        "import sys, iccache_llamaindex\n"
        "assert 'llama_index.core' not in sys.modules\n"
        "assert set(iccache_llamaindex.__all__) <= set(dir(iccache_llamaindex))\n"
        "assert all(getattr(iccache_llamaindex, name) for name in iccache_llamaindex.__all__)\n"
        "assert not hasattr(iccache_llamaindex, 'Settings')\n"
        "print('ok')"
    )
    assert run(code) == "ok"
