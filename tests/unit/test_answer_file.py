"""The stand-in for a large model: a file of right answers behind OpenAI's protocol, read by the real client."""

import json
import subprocess
import sys

import openai
import pytest

from shared_core.demo import answer_server
from shared_core.demo.answer_file import AnswerFile, NoAnswer, Reply
from shared_core.errors import ModelFailed
from shared_core.values import Message

ANSWERS = AnswerFile(
    {
        "heat the hall": Reply("climate set hall"),
        "heat the hall now": Reply("climate set hall --now"),
        "two words": Reply("a b"),
        "is it open": Reply('{"room": "hall"}', tool="window"),
    }
)
TOOL = {
    "type": "function",
    "function": {
        "name": "window",
        "parameters": {"type": "object", "properties": {"room": {"type": "string"}}, "required": ["room"]},
    },
}


@pytest.fixture(scope="module")
def client():
    with answer_server.served(ANSWERS) as url, openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def ask(client, text, **options):
    turns = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=ANSWERS.name, messages=turns, **options)


def test_whole(client):
    answer = ask(client, "heat the hall")
    assert answer.choices[0].message.content == "climate set hall"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 4


def test_streamed_word_by_word(client):
    chunks = list(ask(client, "heat the hall", stream=True, stream_options={"include_usage": True}))
    said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert said == ["climate", " set", " hall"]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens > 0


@pytest.mark.parametrize("is_streamed", [False, True])
def test_the_tool_that_the_file_names_is_called(client, is_streamed):
    given = ask(client, "is it open", tools=[TOOL], stream=is_streamed)
    message = [chunk.choices[0].delta for chunk in given][0] if is_streamed else given.choices[0].message
    (call,) = message.tool_calls
    assert call.function.name == "window"
    assert json.loads(call.function.arguments) == {"room": "hall"}


def test_a_tool_that_is_not_offered_is_not_called(client):
    with pytest.raises(openai.NotFoundError, match="'window', which is not offered"):
        ask(client, "is it open")


def test_an_unknown_request_is_refused_by_name(client):
    with pytest.raises(openai.NotFoundError, match="no answer to 'sing'"):
        ask(client, "sing")


def test_the_request_named_last_counts_and_of_two_that_begin_alike_the_longer():
    def asked(text):
        return ANSWERS.reply([Message("user", text)]).text

    assert asked("Context: two words. Question: heat the hall") == "climate set hall"
    assert asked("please heat the hall now") == "climate set hall --now"
    with pytest.raises(NoAnswer):
        asked("")


def test_a_request_of_the_file_is_answered_as_a_whole_whatever_it_names():
    file = AnswerFile({"is it so that two words": Reply("yes"), "two words": Reply("a b")})
    assert file.reply([Message("user", "is it so that two words")]).text == "yes"


def test_after_a_tool_its_result_is_repeated(client):
    turns = [
        {"role": "user", "content": "heat the hall"},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "done"}]},
    ]
    answer = client.chat.completions.create(model=ANSWERS.name, messages=turns, tools=[TOOL])
    assert answer.choices[0].message.content == "done"


def test_as_a_model_it_counts_estimated_tokens_and_calls_no_tool():
    completion = ANSWERS.complete([Message("system", "Be brief."), Message("user", "heat the hall")], max_tokens=9, n=2)
    assert completion.texts == ("climate set hall",) * 2
    assert completion.finish_reasons == ("stop",) * 2
    assert (completion.prompt_tokens, completion.completion_tokens) == (3 + 4, 2 * 4)
    with pytest.raises(ModelFailed, match="not offered"):
        ANSWERS.complete([Message("user", "is it open")], max_tokens=9)


def test_the_command_serves_both_until_its_input_ends(tmp_path):
    pytest.importorskip("xllamacpp")
    answers = tmp_path / "answers.jsonl"
    rows = [
        {"request": "heat the hall", "answer": "climate set hall"},
        {"request": "is it open", "answer": '{"room": "hall"}', "tool": "window"},
    ]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert AnswerFile.read(answers).answers["is it open"] == Reply('{"room": "hall"}', tool="window")
    command = [sys.executable, "-c", "from shared_core.cli import main; main()", "demo-models", str(answers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        models = json.loads(program.stdout.readline())
        for name in ("small", "large"):
            with openai.OpenAI(base_url=models[name]["base_url"], api_key="none") as client:
                turns = [{"role": "user", "content": "heat the hall"}]
                answer = client.chat.completions.create(model=models[name]["model"], messages=turns, max_tokens=2)
                assert answer.choices[0].message.content
        program.stdin.close()
        assert program.wait(30) == 0
