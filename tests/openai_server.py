"""A scripted OpenAI-compatible server on loopback: chat completions and completions, streamed or not.

What it answers is a function of the request, which a test gives. The function runs on a thread of the server, so it
may wait for an event (a slow model) or raise `Refused` (a failing one); text given piece by piece may wait between
the pieces.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One request as it came in: the path below ``/v1`` and the JSON body."""

    path: str
    body: Mapping[str, Any]

    @property
    def model(self) -> str:
        return self.body["model"]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation; a completion's prompt is one user turn."""
        if "messages" in self.body:
            return self.body["messages"]
        prompt = self.body["prompt"]
        return [{"role": "user", "content": prompt if isinstance(prompt, str) else prompt[0]}]

    @property
    def turns(self) -> list[tuple[str, str]]:
        """(role, text) of each message."""
        return [(m["role"], _text(m.get("content"))) for m in self.messages]

    @property
    def query(self) -> str:
        """Text of the last user turn."""
        return next((text for role, text in reversed(self.turns) if role == "user"), "")


@dataclass(frozen=True)
class Reply:
    """The model's reply.

    Attributes:
        text: The answer, or its pieces one by one, each sent before the next is taken.
        tool_calls: (name, arguments) of each tool call.
        finish_reason: Why it stopped; by default "tool_calls" with tool calls, else "stop". Empty: it does not say.
        cut: True breaks the connection after the last piece, before the stream's end marker.
        usage: What is added to the counted tokens, such as ``{"prompt_tokens_details": {"cached_tokens": 7}}``; None: it counts none.
        logprobs: Of each token, in every choice; only for whole chat answers.
    """

    text: str | Iterable[str] = ""
    tool_calls: Sequence[tuple[str, Mapping[str, Any]]] = ()
    finish_reason: str | None = None
    cut: bool = False
    usage: Mapping[str, Any] | None = field(default_factory=dict)
    logprobs: Sequence[tuple[str, float]] = ()

    @property
    def reason(self) -> str:
        if self.finish_reason is not None:
            return self.finish_reason
        return "tool_calls" if self.tool_calls else "stop"


class Refused(Exception):
    """Raised by an answering function: the server replies with this HTTP status, and says why."""

    def __init__(self, status: int = 500, reason: str = "scripted refusal") -> None:
        super().__init__(status)
        self.status = status
        self.reason = reason


Answer = Callable[[Asked], Reply | str]


@dataclass
class OpenAIServer:
    """The server; `answer` may be replaced at any time, `asked` holds what came in."""

    answer: Answer
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, model: str | None = None) -> int:
        """How many requests came in, for one model or all."""
        with self._lock:
            return sum(model in (None, asked.model) for asked in self.asked)

    def reply(self, asked: Asked) -> Reply:
        with self._lock:
            self.asked.append(asked)
        reply = self.answer(asked)
        return Reply(reply) if isinstance(reply, str) else reply


@contextmanager
def openai_server(answer: Answer | None = None) -> Iterator[OpenAIServer]:
    """A running server; its `url` ends in ``/v1``."""
    server = OpenAIServer(answer or obliging)

    class Handler(_Handler):
        script = server

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def obliging(asked: Asked) -> Reply:
    """Does whatever the request asks for: calls the tool, fills the schema, or answers with text."""
    body = asked.body
    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
    if schema:
        return Reply(json.dumps(_instance(schema, asked.query), ensure_ascii=False))
    if (body.get("response_format") or {}).get("type") == "json_object":
        return Reply(json.dumps({"setup": "Why did the cat sit?", "punchline": "It was tired."}))
    if body.get("tools") and asked.messages[-1]["role"] != "tool" and body.get("tool_choice") != "none":
        tool = _chosen(body)
        return Reply("", [(tool["name"], _instance(tool.get("parameters") or {}, asked.query))])
    return Reply("Hello, this is a scripted answer.")


def _chosen(body: Mapping[str, Any]) -> dict[str, Any]:
    choice = body.get("tool_choice")
    wanted = choice["function"]["name"] if isinstance(choice, dict) else None
    tools = [tool["function"] for tool in body["tools"]]
    return next((tool for tool in tools if tool["name"] == wanted), tools[0])


def _instance(schema: Mapping[str, Any], query: str, root: Mapping[str, Any] | None = None) -> Any:
    """A value that fits a JSON schema; strings quote what the query quotes."""
    root = root or schema
    if "$ref" in schema:
        return _instance(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], query, root)
    if "anyOf" in schema:
        return _instance(schema["anyOf"][0], query, root)
    if "enum" in schema:
        return schema["enum"][0]
    quoted = re.search(r"'([^']+)'", query)
    match schema.get("type", "object"):
        case "object":
            return {name: _instance(part, query, root) for name, part in (schema.get("properties") or {}).items()}
        case "array":
            return [_instance(schema.get("items") or {}, query, root)]
        case "integer" | "number":
            return 3
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return quoted[1] if quoted else "something"


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or [])


class _Handler(BaseHTTPRequestHandler):
    """Speaks the protocol for one `OpenAIServer`."""

    script: OpenAIServer
    protocol_version = "HTTP/1.1"
    wbufsize = 0

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = Asked(self.path.removeprefix("/v1/"), body)
        try:
            reply = self.script.reply(asked)
        except Refused as refused:
            self._json(refused.status, {"error": {"message": refused.reason, "type": "server_error"}})
            return
        try:
            if body.get("stream"):
                self._stream(asked, reply)
            else:
                self._json(200, _whole(asked, reply))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has left

    def _json(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")  # clients share connections between tests, and so between event loops
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, asked: Asked, reply: Reply) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in _events(asked, reply):
            self._chunk(f"data: {json.dumps(event)}\n\n".encode())
        if reply.cut:
            self.close_connection = True
            return
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _whole(asked: Asked, reply: Reply) -> dict[str, Any]:
    text = reply.text if isinstance(reply.text, str) else "".join(reply.text)
    choices = []
    for n in range(asked.body.get("n") or 1):
        choice: dict[str, Any] = {"index": n, "finish_reason": reply.reason}
        if asked.path == "chat/completions":
            message: dict[str, Any] = {"role": "assistant", "content": text}
            if reply.tool_calls:
                message["tool_calls"] = _tool_calls(reply)
            choice["message"] = message
            if reply.logprobs:
                tokens = [{"token": t, "logprob": p, "bytes": None, "top_logprobs": []} for t, p in reply.logprobs]
                choice["logprobs"] = {"content": tokens}
        else:
            choice |= {"text": text, "logprobs": None}
        choices.append(choice)
    usage = None if reply.usage is None else {**_usage(asked, text), **reply.usage}
    return _head(asked) | {"choices": choices, "usage": usage}


def _events(asked: Asked, reply: Reply) -> Iterator[dict[str, Any]]:
    is_chat = asked.path == "chat/completions"
    head = _head(asked, "chat.completion.chunk" if is_chat else "text_completion")
    said = ""

    def event(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        body = {"delta": delta} if is_chat else {"text": delta.get("content", ""), "logprobs": None}
        return head | {"choices": [{"index": 0, "finish_reason": reason, **body}]}

    if is_chat:
        yield event({"role": "assistant", "content": ""})
    for piece in re.findall(r"\S*\s*", reply.text) if isinstance(reply.text, str) else reply.text:
        if piece:
            said += piece
            yield event({"content": piece})
    if reply.tool_calls:
        yield event({"tool_calls": [{"index": n, **call} for n, call in enumerate(_tool_calls(reply))]})
    if reply.cut:
        return
    yield event({}, reply.reason or None)
    if (asked.body.get("stream_options") or {}).get("include_usage"):
        yield head | {"choices": [], "usage": _usage(asked, said)}


def _tool_calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{n}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
        }
        for n, (name, arguments) in enumerate(reply.tool_calls)
    ]


def _head(asked: Asked, kind: str | None = None) -> dict[str, Any]:
    kind = kind or ("chat.completion" if asked.path == "chat/completions" else "text_completion")
    return {"id": "scripted-1", "object": kind, "created": int(time.time()), "model": asked.model}


def _usage(asked: Asked, answer: str) -> dict[str, int]:
    """Counts words as tokens, which shows how many examples were sent."""
    read = sum(len(text.split()) for _, text in asked.turns)
    written = max(1, len(answer.split()))
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
