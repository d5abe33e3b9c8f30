"""An OpenAI-compatible server that always gives the same answer immediately, in a separate process. So a call's time is
the client's. A GET returns the number of bytes of the last prompt. Prints its port; ends with its standard input.

    python -m benchmarks.zero_server
"""

from __future__ import annotations

import asyncio
import json
import sys

ANSWER = "An answer."


def http(body: bytes) -> bytes:
    """A whole response of HTTP/1.1, its connection kept alive."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def reply() -> bytes:
    """One chat completion."""
    completion = {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": "zero",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
    }
    return http(json.dumps(completion).encode())


class Answering(asyncio.Protocol):
    """Answers every request of one connection without reading it."""

    fixed = reply()
    last = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end].lower()
            length = head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]
            size = int(length or 0)
            if len(self.received) < end + 4 + size:
                return
            self.received = self.received[end + 4 + size :]
            if head.startswith(b"get "):
                self.transport.write(http(b"%d" % Answering.last))
            else:
                Answering.last = size
                self.transport.write(self.fixed)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answering, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve())
