"""A file of right answers behind OpenAI's protocol: it stands in for a large model where none is at hand.

It answers from the file and by nothing else: with the text there, or by calling the tool that is named there. After a
tool's result it repeats that result. Chat completions only, streamed or whole.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from shared_core.cli.jsonl import read_jsonl
from shared_core.prompt import estimate_tokens

MODEL: Final = "answer-file"
PATH: Final = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Reply:
    """What is said: a text, or, with a tool, the arguments of its call as JSON."""

    text: str
    tool: str = ""

    @property
    def finish_reason(self) -> str:
        """As the protocol calls it."""
        return "tool_calls" if self.tool else "stop"

    def message(self) -> dict[str, Any]:
        """The whole message."""
        if not self.tool:
            return {"role": "assistant", "content": self.text}
        function = {"name": self.tool, "arguments": self.text}
        call = {"index": 0, "id": f"call_{uuid4().hex[:12]}", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    def deltas(self) -> Iterator[dict[str, Any]]:
        """The message in pieces: word by word, a tool call in one."""
        if self.tool:
            yield self.message()
            return
        words = self.text.split(" ")
        yield {"role": "assistant", "content": words[0]}
        for word in words[1:]:
            yield {"content": f" {word}"}


class NoAnswer(LookupError):
    """The file has no answer to what was asked."""


def read(path: Path) -> Mapping[str, Reply]:
    """The answers of a file of JSON lines ``{"request": …, "answer": …}``, by request.

    Where a line has a ``"tool"``, that tool is called, and the answer holds its arguments as JSON.

    Raises:
        ConfigurationError: The file cannot be used.
    """
    rows = read_jsonl(path, ["request", "answer"], ["tool"])
    return {row["request"]: Reply(row["answer"], row.get("tool", "")) for row in rows}


def reply_to(body: Mapping[str, Any], answers: Mapping[str, Reply]) -> Reply:
    """What the file says to one chat completion request.

    The last user turn may hold more than the request (retrieved text, say): the request that it names last counts.

    Raises:
        NoAnswer: It names none, or one whose tool is not offered.
    """
    turns = body["messages"]
    if turns[-1]["role"] == "tool":
        return Reply(_text(turns[-1]))
    asked = _text(next(turn for turn in reversed(turns) if turn["role"] == "user"))
    at, _, request = max((asked.rfind(request), len(request), request) for request in answers)
    if at < 0:
        raise NoAnswer(f"the file of right answers has none to {asked[-200:]!r}")
    reply = answers[request]
    offered = {tool["function"]["name"] for tool in body.get("tools") or ()}
    if reply.tool and reply.tool not in offered:
        raise NoAnswer(f"the right answer to {request!r} calls the tool {reply.tool!r}, which is not offered")
    return reply


@contextmanager
def served(answers: Mapping[str, Reply]) -> Iterator[str]:
    """Serve `answers` (by request) on a free loopback port; yields the base URL, which ends in ``/v1``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, answers))
    thread = threading.Thread(target=server.serve_forever, name="answer-file", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: every answer, streamed or not, ends with its connection."""

    def __init__(self, answers: Mapping[str, Reply], *args: Any) -> None:
        self._answers = answers
        super().__init__(*args)

    def log_message(self, *_: object) -> None:
        """Nothing: the caller's screen is not ours."""

    def do_POST(self) -> None:
        """One chat completion."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != PATH:
            self._json(HTTPStatus.NOT_FOUND, _error(f"only {PATH} is served here"))
            return
        try:
            reply = reply_to(body, self._answers)
        except NoAnswer as missing:
            self._json(HTTPStatus.NOT_FOUND, _error(str(missing)))
            return
        usage = _usage(body["messages"], reply)
        if body.get("stream"):
            self._stream(reply, usage if (body.get("stream_options") or {}).get("include_usage") else None)
        else:
            choice = {"index": 0, "message": reply.message(), "finish_reason": reply.finish_reason}
            self._json(HTTPStatus.OK, _head("chat.completion") | {"choices": [choice], "usage": usage})

    def _json(self, status: HTTPStatus, value: object) -> None:
        self._begin(status, "application/json")
        self.wfile.write(json.dumps(value).encode())

    def _stream(self, reply: Reply, usage: Mapping[str, int] | None) -> None:
        self._begin(HTTPStatus.OK, "text/event-stream")
        head = _head("chat.completion.chunk")
        for delta in reply.deltas():
            self._event(head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        self._event(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": reply.finish_reason}]})
        if usage is not None:
            self._event(head | {"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, value: object) -> None:
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())

    def _begin(self, status: HTTPStatus, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()


def _head(kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid4().hex}", "object": kind, "created": 0, "model": MODEL}


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": None}}


def _usage(messages: Sequence[Mapping[str, Any]], reply: Reply) -> dict[str, int]:
    """Estimates; there is no tokenizer to ask."""
    read = sum(estimate_tokens(_text(message)) for message in messages)
    written = estimate_tokens(reply.text)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _text(message: Mapping[str, Any]) -> str:
    """The text of a message, whose content is a string, a list of parts, or null."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
