"""The address and the listener of a browser login, which need no fixed port."""

from __future__ import annotations

import socket

import llm_chatgpt_oauth as plugin
from llm_chatgpt.login.callback import open_listeners


def test_the_address_is_fresh_each_time():
    one, two = plugin.BrowserLogin(1455), plugin.BrowserLogin(1455)
    assert one.state != two.state
    assert one.code_verifier != two.code_verifier
    assert one.code_verifier not in repr(one) + one.url
    assert one.state not in repr(one)


def test_windows_binds_the_port_for_itself_alone(monkeypatch):
    calls = []

    class Socket(socket.socket):
        def setsockopt(self, *arguments):
            calls.append(arguments)

    monkeypatch.setattr("llm_chatgpt.config.WINDOWS", True)
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", -5, raising=False)
    monkeypatch.setattr(socket, "socket", Socket)
    (listener,) = open_listeners("127.0.0.1", (0,))
    listener.server_close()
    assert calls.count((socket.SOL_SOCKET, -5, 1)) == 1
    assert not any(call[1] == socket.SO_REUSEADDR for call in calls)
