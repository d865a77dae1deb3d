"""A chat endpoint that plays Guess by bisection; a user of verifiers has that of a language model."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PORT = 8123


def bisect(messages: list[dict[str, Any]]) -> str:
    """Return the number halfway between those that were said to be too low and too high."""
    low, high = 1, 7
    said = [m["content"] for m in messages if m["role"] != "system"][1:]
    for guess, answer in zip(said[::2], said[1::2], strict=True):
        low, high = (int(guess) + 1, high) if answer == ">" else (low, int(guess) - 1)
    return str((low + high) // 2)


class Endpoint(BaseHTTPRequestHandler):
    """OpenAI's `/v1/chat/completions`."""

    def do_POST(self) -> None:
        """Answer a conversation."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": bisect(asked["messages"])}
        answer = {
            "id": "0",
            "object": "chat.completion",
            "created": 0,
            "model": asked["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Keeps as many waiting as an evaluation may have open; the standard library keeps five."""

    request_queue_size = 128


def serve(_: Any = None) -> None:
    """Offer it for as long as this process runs."""
    server = Server(("127.0.0.1", PORT), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
