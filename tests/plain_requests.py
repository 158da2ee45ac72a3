"""Requests of a client that is not this plugin, for the tests of the simulator."""

from __future__ import annotations

import json
import ssl

import httpx

# It reads no certificates, and keeps no connections that would outlive their simulator.
client = httpx.Client(
    verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    limits=httpx.Limits(max_keepalive_connections=0),
    trust_env=False,
)

BODY = {
    "model": "gpt-6-luna",
    "instructions": "Be brief.",
    "store": False,
    "stream": True,
    "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
    "include": ["reasoning.encrypted_content"],
}


def post(simulator, headers, **changes):
    body = {k: v for k, v in {**BODY, **changes}.items() if v is not None}
    return client.post(f"{simulator.base_url}/codex/responses", json=body, headers=headers)


def get(simulator, headers, path):
    return client.get(f"{simulator.base_url}/wham/{path}", headers=headers)


def events_of(answer):
    frames = answer.text.strip().split("\n\n")
    return [json.loads(frame.split("data: ")[1]) for frame in frames]


def message(text, phase=None):
    message = {"role": "assistant", "content": [{"type": "output_text", "text": text}]}
    return message if phase is None else {**message, "phase": phase}
