"""Requests, whole answers, streams, and error bodies."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable
from typing import Any


@dataclasses.dataclass
class Request:
    """One request as it arrived. `body` is the JSON, the fields of a form, or None."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    raw: bytes
    body: Any
    connection: int
    at: float

    @property
    def is_json(self) -> bool:
        return isinstance(self.body, dict) and "json" in self.headers.get("content-type", "")

    @property
    def bearer(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


@dataclasses.dataclass
class Answer:
    """A whole HTTP answer.

    `body` is sent as it is if it is text or bytes, and as JSON otherwise. `delay` is the
    seconds before the answer, `trickle` the seconds after each byte of the body; `drop`
    closes the connection instead of answering.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    delay: float = 0.0
    trickle: float = 0.0
    drop: bool = False


@dataclasses.dataclass
class Stream:
    """A chunked answer with status 200: each piece is bytes, or a float of seconds to wait.

    `end` is "finish" (a proper last chunk), "cut" (the connection closes without one) or
    "open" (nothing more comes until the client leaves). With `chunked` the pieces are HTTP
    chunks already.
    """

    pieces: Iterable[bytes | float]
    end: str = "finish"
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    chunked: bool = False


def sse(event: dict[str, Any]) -> bytes:
    """One event as a frame of the stream."""
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def web_page(status: int = 403) -> Answer:
    """Cloudflare's challenge page."""
    return Answer(
        status,
        "<!DOCTYPE html><html><head><title>Just a moment...</title></head></html>",
        {
            "Content-Type": "text/html; charset=UTF-8",
            "cf-mitigated": "challenge",
            "CF-RAY": "8f0000000000abcd-FRA",
        },
    )


def error_page(code: str) -> Answer:
    """The page that the browser shows if a sign-in is refused."""
    return Answer(400, f"<html>{code}</html>", {"Content-Type": "text/html"})


def error_answer(
    status: int, code: str | None, message: str = "It did not work.", **more: Any
) -> Answer:
    """The error envelope that issuer and backend share (docs/protocol.md)."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return Answer(status, {"error": {**error, **more}, "status": status})


def usage_limit(**more: Any) -> Answer:
    """The refusal of an account that has used up its limit."""
    error = {
        "type": "usage_limit_reached",
        "message": "The usage limit has been reached",
        "plan_type": "plus",
        "resets_at": int(time.time()) + 36640,
        "resets_in_seconds": 36640,
        "eligible_promo": None,
    }
    return Answer(429, {"error": {**error, **more}})


class Refusal(Exception):
    """Raised while a request is checked; `answer` is sent instead of the normal one."""

    def __init__(self, answer: Answer):
        self.answer = answer


def refuse(status: int, detail: Any) -> Refusal:
    """A refusal in the backend's own shape."""
    return Refusal(Answer(status, {"detail": detail}))


def invalid(code: str | None, message: str, **more: Any) -> Refusal:
    """A refusal with status 400 in the shape of the public API."""
    return Refusal(error_answer(400, code, message, **more))
