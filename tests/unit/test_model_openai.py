"""A model behind an OpenAI-compatible endpoint: what is sent, what is read, and how it fails."""

import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from shared_core.errors import ModelFailed
from shared_core.inference.openai import OpenAIModel
from shared_core.values import Message
from tests.openai_server import Refused, Reply, openai_server

TALK = [Message("system", "Be brief."), Message("user", "heat it")]


@pytest.fixture
def serve():
    servers = []

    def start(answer):
        context = openai_server(answer)
        servers.append(context)
        return context.__enter__()

    yield start
    for context in servers:
        context.__exit__(None, None, None)


def test_an_answer_with_its_reason_and_tokens(serve):
    server = serve(lambda asked: Reply("climate set", finish_reason="length"))
    completion = OpenAIModel(server.url, "small", extra={"top_p": 0.5}).complete(TALK, max_tokens=7, temperature=0.3)
    assert (completion.texts, completion.finish_reasons) == (("climate set",), ("length",))
    assert completion.prompt_tokens > 0 and completion.completion_tokens > 0 and completion.seconds > 0
    (asked,) = server.asked
    assert asked.turns == [("system", "Be brief."), ("user", "heat it")]
    sent = {name: asked.body[name] for name in ("model", "max_tokens", "temperature", "n", "top_p")}
    assert sent == {"model": "small", "max_tokens": 7, "temperature": 0.3, "n": 1, "top_p": 0.5}


def test_a_refusal_names_endpoint_and_mend_and_no_key(serve):
    def refuse(asked):
        raise Refused(400)

    server = serve(refuse)
    model = OpenAIModel(server.url, "small", api_key="secret-key", max_retries=0)
    with pytest.raises(ModelFailed, match="'small' at http.*BadRequestError.*serves this model") as caught:
        model.complete(TALK, max_tokens=7)
    assert "secret-key" not in str(caught.value) + repr(model)


@pytest.fixture
def says():
    """The address of a server that sends one status, type and body."""
    servers = []

    def start(status, kind, body):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_): ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"127.0.0.1:{server.server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_key_that_the_server_repeats_is_in_no_error_and_no_traceback(says):
    address = says(401, "application/json", b'{"error": {"message": "bad key secret-key"}}')
    model = OpenAIModel(f"http://user:secret-word@{address}", "small", api_key="secret-key", max_retries=0)
    with pytest.raises(ModelFailed, match="AuthenticationError.*takes the key") as caught:
        model.complete(TALK, max_tokens=7)
    shown = "".join(traceback.format_exception(caught.value)) + repr(model)
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("kind", "body"), [("application/json", b'{"error": "overloaded"}'), ("text/html", b"<html>sorry</html>")]
)
def test_an_answer_in_another_form_is_a_failure_of_the_model(says, kind, body):
    with pytest.raises(ModelFailed, match="did not send 1 answers"):
        OpenAIModel(f"http://{says(200, kind, body)}", "small", max_retries=0).complete(TALK, max_tokens=7)


def test_fewer_answers_than_asked_for_are_a_failure(says):
    one = b'{"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]}'
    with pytest.raises(ModelFailed, match="did not send 3 answers"):
        OpenAIModel(f"http://{says(200, 'application/json', one)}", "small").complete(TALK, max_tokens=7, n=3)


def test_an_endpoint_that_is_away(serve):
    with pytest.raises(ModelFailed, match="APIConnectionError"):
        OpenAIModel("http://127.0.0.1:9/v1", "small", max_retries=0).complete(TALK, max_tokens=7)
