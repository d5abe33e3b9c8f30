"""The file of right answers behind OpenAI's protocol: chat completions only, streamed or whole."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from uuid import uuid4

from typing_extensions import override

from shared_core.demo.answer_file import MODEL, AnswerFile, NoAnswer, Reply, tokens
from shared_core.values import Message

PATH: Final = "/v1/chat/completions"


@contextmanager
def served(file: AnswerFile) -> Iterator[str]:
    """Serve `file` on a free loopback port while the block runs; yields the base URL, which ends in ``/v1``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, file))
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

    def __init__(self, file: AnswerFile, *args: Any) -> None:
        self._file = file
        super().__init__(*args)

    @override
    def log_message(self, *_: object) -> None:
        """Nothing: the caller's screen is not ours."""

    def do_POST(self) -> None:
        """One chat completion."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != PATH:
            self._json(HTTPStatus.NOT_FOUND, _error(f"only {PATH} is served here"))
            return
        try:
            turns = [Message(turn["role"], _text(turn)) for turn in body["messages"]]
            reply = self._file.reply(turns, {tool["function"]["name"] for tool in body.get("tools") or ()})
        except NoAnswer as missing:
            self._json(HTTPStatus.NOT_FOUND, _error(str(missing)))
            return
        usage = _usage(turns, reply)
        if body.get("stream"):
            self._stream(reply, usage if (body.get("stream_options") or {}).get("include_usage") else None)
        else:
            choice = {"index": 0, "message": _message(reply), "finish_reason": reply.finish_reason}
            self._json(HTTPStatus.OK, _head("chat.completion") | {"choices": [choice], "usage": usage})

    def _json(self, status: HTTPStatus, value: object) -> None:
        self._begin(status, "application/json")
        self.wfile.write(json.dumps(value).encode())

    def _stream(self, reply: Reply, usage: Mapping[str, int] | None) -> None:
        self._begin(HTTPStatus.OK, "text/event-stream")
        head = _head("chat.completion.chunk")
        for delta in _deltas(reply):
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


def _message(reply: Reply) -> dict[str, Any]:
    """The whole message."""
    if not reply.tool:
        return {"role": "assistant", "content": reply.text}
    function = {"name": reply.tool, "arguments": reply.text}
    call = {"index": 0, "id": f"call_{uuid4().hex[:12]}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _deltas(reply: Reply) -> Iterator[dict[str, Any]]:
    """The message in pieces: word by word, a tool call in one."""
    if reply.tool:
        yield _message(reply)
        return
    first, *others = reply.text.split(" ")
    yield {"role": "assistant", "content": first}
    for word in others:
        yield {"content": f" {word}"}


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": None}}


def _usage(messages: Sequence[Message], reply: Reply) -> dict[str, int]:
    read, written = tokens(messages, reply)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _text(message: Mapping[str, Any]) -> str:
    """The text of a message, whose content is a string, a list of parts, or null."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
