"""The official route: sign-in, refresh, prompts, errors, sign-out."""

from __future__ import annotations

import threading

import llm_chatgpt_oauth as plugin
from conftest import fetch


def browse(url):
    threading.Thread(target=fetch, args=(url,), daemon=True).start()


def sign_in(account=None, **options):
    return plugin.login_officially(account, show=lambda request: browse(request.url), **options)


def test_a_prompt_after_the_first_sign_in(simulator, ask):
    tokens = sign_in()
    assert tokens.email == "ada@example.com"
    assert ask("hi").text.startswith("This is answer 1")
    assert [r.path for r in simulator.requests if "/backend-api" in r.path] == []
