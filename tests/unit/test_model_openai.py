"""A model behind an OpenAI-compatible endpoint: what is sent, what is read, and how it fails."""

import multiprocessing
import threading
import time
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


def test_n_answers_with_their_tokens_and_those_that_a_prefix_cache_held(serve):
    server = serve(
        lambda asked: Reply("a", usage={"completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 7}})
    )
    completion = OpenAIModel(server.url, "small").complete(TALK, max_tokens=7, n=3)
    assert (completion.texts, completion.finish_reasons) == (("a",) * 3, ("stop",) * 3)
    assert (completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens) == (4, 9, 7)
    assert server.asked[0].body["n"] == 3


def test_what_is_sent_with_every_call_wins_and_none_leaves_a_name_out(serve):
    server = serve(lambda asked: "done")
    extra = {"temperature": None, "max_tokens": None, "max_completion_tokens": 90}
    assert OpenAIModel(server.url, "thinks", extra=extra).complete(TALK, max_tokens=7).texts == ("done",)
    sent = server.asked[0].body
    assert sent["max_completion_tokens"] == 90 and not {"temperature", "max_tokens"} & sent.keys()


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


# time -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def over():
    """Set when the test is over, so that nothing waits on."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def drips(over):
    """The address of a server that sends a byte of its answer now and then, and never all of it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            try:
                while not over.wait(0.02):
                    self.wfile.write(b" ")
            except OSError:
                over.set()  # the client has left

        def log_message(self, *_): ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    over.set()
    server.shutdown()
    server.server_close()


def fails_within(model, seconds):
    begun = time.monotonic()
    with pytest.raises(ModelFailed, match=f"did not answer within {seconds:g} s, tries included"):
        model.complete(TALK, max_tokens=7, timeout=seconds)
    took = time.monotonic() - begun
    assert seconds <= took < seconds + 1.5  # one try more would take longer than that


def test_a_server_that_does_not_answer_is_given_up_in_time(serve, over):
    server = serve(lambda asked: "late" if over.wait(60) else "")
    fails_within(OpenAIModel(server.url, "small", max_retries=5), 0.3)


def test_a_server_that_answers_byte_by_byte_is_given_up_in_time_and_left(drips, over):
    fails_within(OpenAIModel(drips, "small", max_retries=0), 0.3)
    assert over.wait(10)


def test_tries_end_with_the_call(serve):
    def refuse(asked):
        raise Refused(503)

    server = serve(refuse)
    fails_within(OpenAIModel(server.url, "small", max_retries=50), 0.8)
    assert server.count() >= 2


def test_calls_of_many_threads_wait_for_each_other_nowhere(serve):
    meeting = threading.Barrier(8)
    server = serve(lambda asked: f"{meeting.wait(20) >= 0} {asked.query}")
    model, texts = OpenAIModel(server.url, "small"), {}

    def ask(n):
        texts[n] = model.complete([Message("user", str(n))], max_tokens=7).texts[0]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    [thread.start() for thread in threads]
    [thread.join(30) for thread in threads]
    assert texts == {n: f"True {n}" for n in range(8)}


async def test_a_call_from_within_an_event_loop(serve):
    server = serve(lambda asked: "done")
    assert OpenAIModel(server.url, "small").complete(TALK, max_tokens=7).texts == ("done",)


def ask_again(model, said):
    said.put(model.complete(TALK, max_tokens=7, timeout=10).texts)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_asks_on_connections_of_its_own(serve):
    server = serve(lambda asked: "done")
    model = OpenAIModel(server.url, "small")
    model.complete(TALK, max_tokens=7)
    fork = multiprocessing.get_context("fork")
    said = fork.Queue()
    child = fork.Process(target=ask_again, args=(model, said))
    child.start()
    assert said.get(timeout=20) == ("done",)
    child.join(10)


def test_a_closed_model_says_so(serve):
    server = serve(lambda asked: "done")
    model = OpenAIModel(server.url, "small", max_retries=0)
    model.complete(TALK, max_tokens=7)
    model.close()
    with pytest.raises(ModelFailed):
        model.complete(TALK, max_tokens=7)
