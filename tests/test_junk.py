"""Random data from the server or in a file is read as far as possible, or explained."""

from __future__ import annotations

import base64
import json

import llm
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_chatgpt_oauth as plugin
from junk import json_values
from llm_chatgpt.backend import catalogue
from llm_chatgpt.backend.refusals import RefusedRequest, explain_refusal
from llm_chatgpt.http import Reply
from llm_chatgpt.login import tokens
from llm_chatgpt.login.login_file import store_path
from simulator import make_jwt

HEADERS = """
    x-request-id cf-ray content-type x-codex-plan-type x-codex-rate-limit-reached-type
    x-codex-primary-used-percent x-codex-primary-window-minutes x-codex-limit-name
    x-codex-primary-reset-at
"""
JSON = json_values(
    "error detail message code type param plan_type resets_at resets_in_seconds loc msg "
    "error_description"
)


@given(
    st.integers(300, 599),
    st.binary(max_size=60) | JSON.map(lambda data: json.dumps(data).encode()),
    st.dictionaries(st.sampled_from(HEADERS.split()), st.text(max_size=12) | st.floats().map(str)),
)
def test_any_error_answer_gives_a_printable_message(status, body, headers):
    error = explain_refusal(
        Reply(status, headers, body), RefusedRequest(tokens.Tokens(""), slug="gpt-6-luna")
    )
    text = str(error)
    assert isinstance(error, llm.ModelError)
    assert text
    assert all(c.isprintable() for c in text)


@given(st.binary(max_size=80) | JSON.map(lambda data: json.dumps(data).encode()))
def test_any_claims_can_be_read(payload):
    token = f"e30.{base64.urlsafe_b64encode(payload).decode().rstrip('=')}.x"
    claims = plugin.parse_jwt_claims(token)
    assert claims is None or isinstance(claims, dict)
    account = plugin.extract_account_id(token, token)
    assert account is None or isinstance(account, str)
    login = tokens.tokens_from_reply({"access_token": token, "id_token": token}, now=0.0)
    assert login is None or isinstance(tokens.needs_refresh(login, 0.0), bool)


CLAIMS = st.dictionaries(
    st.sampled_from(
        [
            "exp",
            "iat",
            "email",
            "chatgpt_account_id",
            "organizations",
            tokens.AUTH_CLAIM,
            tokens.PROFILE_CLAIM,
        ]
    ),
    st.recursive(
        st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(["chatgpt_account_id", "organizations", "id", "chatgpt_plan_type"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=6,
    ),
)


@settings(max_examples=50)
@given(CLAIMS, CLAIMS)
def test_any_claims_make_a_login_that_can_be_stored(id_claims, access_claims):
    reply = {"access_token": make_jwt(access_claims), "id_token": make_jwt(id_claims)}
    login = tokens.tokens_from_reply(reply, now=1000.0)
    plugin.store_tokens(login)
    assert plugin.load_tokens() == login


@given(
    st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from(["version", "default", "accounts"]),
        st.integers(-1, 3)
        | st.text(max_size=4)
        | st.dictionaries(
            st.text(max_size=4),
            st.none()
            | st.dictionaries(
                st.sampled_from(["access_token", "refresh_token", "expires_at", "fedramp"]),
                st.none() | st.text(max_size=3) | st.floats() | st.booleans(),
            ),
        ),
    ).map(lambda data: json.dumps(data).encode())
)
def test_any_login_file_is_read_or_named_in_an_error(content):
    llm.user_dir()
    store_path().write_bytes(content)
    problem = ""
    try:
        login = plugin.load_tokens()
    except plugin.StoreError as error:
        login, problem = None, str(error)
    if problem:
        assert str(store_path()) in problem
    else:
        assert login is None or login.access_token


MODEL = st.dictionaries(
    st.sampled_from(["slug", *catalogue.STORED_MODEL_FIELDS]),
    st.none() | st.text(max_size=4) | st.floats() | st.lists(st.text(max_size=3), max_size=2),
)


@given(st.lists(MODEL | st.none(), max_size=3), st.none() | st.lists(st.text(max_size=3)))
def test_any_model_list_is_read(models, seen):
    llm.user_dir()
    data = {"accounts": {"a": {"models": models, "fetched_at": "x"}}, "seen": seen}
    catalogue.models_file().write_text(json.dumps(data))
    models_by_slug = catalogue.models_to_register()
    assert set(catalogue.BUILT_IN_MODELS) <= set(models_by_slug)
    assert all(isinstance(info.slug, str) and info.slug for info in models_by_slug.values())
