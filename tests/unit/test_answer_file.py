"""The stand-in for a large model: a file of right answers behind OpenAI's protocol, read by the real client."""

import json
import subprocess
import sys

import openai
import pytest

from shared_core.cli import answer_file
from shared_core.cli.answer_file import NoAnswer, Reply, reply_to

ANSWERS = {
    "heat the hall": Reply("climate set hall"),
    "heat the hall now": Reply("climate set hall --now"),
    "two words": Reply("a b"),
    "is it open": Reply('{"room": "hall"}', tool="window"),
}
TOOL = {
    "type": "function",
    "function": {
        "name": "window",
        "parameters": {"type": "object", "properties": {"room": {"type": "string"}}, "required": ["room"]},
    },
}


@pytest.fixture(scope="module")
def client():
    with answer_file.served(ANSWERS) as url, openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def ask(client, text, **options):
    turns = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=answer_file.MODEL, messages=turns, **options)


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
    with pytest.raises(openai.NotFoundError, match="none to 'sing'"):
        ask(client, "sing")


def test_the_request_named_last_counts_and_of_two_that_begin_alike_the_longer():
    def asked(text):
        return reply_to({"messages": [{"role": "user", "content": text}]}, ANSWERS).text

    assert asked("Context: two words. Question: heat the hall") == "climate set hall"
    assert asked("please heat the hall now") == "climate set hall --now"
    with pytest.raises(NoAnswer):
        asked("")


def test_after_a_tool_its_result_is_repeated():
    turns = [
        {"role": "user", "content": "heat the hall"},
        {"role": "tool", "content": [{"type": "text", "text": "done"}]},
    ]
    assert reply_to({"messages": turns, "tools": [TOOL]}, ANSWERS).text == "done"


def test_the_command_serves_both_until_its_input_ends(tmp_path):
    pytest.importorskip("xllamacpp")
    answers = tmp_path / "answers.jsonl"
    rows = [
        {"request": "heat the hall", "answer": "climate set hall"},
        {"request": "is it open", "answer": '{"room": "hall"}', "tool": "window"},
    ]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert answer_file.read(answers)["is it open"] == Reply('{"room": "hall"}', tool="window")
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
