"""The simulator's official route, checked by requests that the plugin never sends."""

from __future__ import annotations

import base64
import json
import secrets
import time
import urllib.parse
import uuid

import openai
import pytest

from conftest import fetch, redirect_of, with_query
from plain_requests import client
from simulator import (
    CLIENT_ID,
    OFFICIAL_SCOPE,
    PLAN_ERRORS,
    PLAN_SCOPE,
    REGISTRATION,
    RESOURCE,
    Account,
    Call,
    Say,
    Think,
    plan_error,
)
from simulator.issuer import pkce_challenge

VERIFIER = "v" * 43
CALLBACK = "http://127.0.0.1:54321/auth/callback"
BODY = {
    "model": "gpt-6-luna",
    "store": False,
    "stream": True,
    "input": [{"role": "user", "content": "hi"}],
    "include": ["reasoning.encrypted_content"],
}
FUNCTION = {
    "type": "function",
    "name": "multiply",
    "description": "",
    "parameters": {"type": "object", "properties": {}},
    "strict": None,
}


def authorize_url(simulator, client_id=REGISTRATION, **changes):
    hint = {"agent_name_hint": "another-client"} if client_id == REGISTRATION else {}
    query = {
        "client_id": client_id,
        **hint,
        "ext_agent_host_id": f"urn:uuid:{uuid.uuid4()}",
        "response_type": "code",
        "redirect_uri": CALLBACK,
        "scope": OFFICIAL_SCOPE,
        "resource": RESOURCE,
        "state": secrets.token_urlsafe(32),
        "nonce": secrets.token_urlsafe(32),
        "code_challenge": pkce_challenge(VERIFIER),
        "code_challenge_method": "S256",
    }
    url = f"{simulator.issuer}/api/accounts/authorize?{urllib.parse.urlencode(query)}"
    return with_query(url, **changes)


def callback_of(url):
    """Return the parameters of the redirect."""
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(redirect_of(url)).query))


def post_form(simulator, endpoint, **fields):
    fields = {k: v for k, v in fields.items() if v is not None}
    return client.post(f"{simulator.issuer}/api/accounts/oauth/{endpoint}", data=fields)


def exchange(simulator, callback, **changes):
    fields = {
        "grant_type": "authorization_code",
        "client_id": callback.get("client_id"),
        "code": callback["code"],
        "code_verifier": VERIFIER,
        "redirect_uri": CALLBACK,
        "resource": RESOURCE,
    }
    return post_form(simulator, "token", **{**fields, **changes})


def refresh(simulator, reply, **changes):
    fields = {
        "grant_type": "refresh_token",
        "client_id": claims(reply["id_token"])["aud"][0],
        "refresh_token": reply["refresh_token"],
        "resource": RESOURCE,
    }
    return post_form(simulator, "token", **{**fields, **changes})


def claims(token):
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def post(simulator, token, headers=None, **changes):
    body = {k: v for k, v in {**BODY, **changes}.items() if v is not None}
    headers = {"Authorization": f"Bearer {token}", **(headers or {})}
    return client.post(f"{simulator.api_url}/responses", json=body, headers=headers)


@pytest.fixture
def token(simulator):
    return simulator.sign_in_officially()["access_token"]


def test_a_client_registers_once_and_signs_in_again(simulator):
    url = authorize_url(simulator)
    callback = callback_of(url)
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
    assert callback["state"] == query["state"]
    client_id = callback["client_id"]
    assert simulator.clients == {client_id: "another-client"}
    reply = exchange(simulator, callback).json()
    assert set(reply) == {
        "access_token",
        "refresh_token",
        "id_token",
        "token_type",
        "expires_in",
        "scope",
        "earliest_refresh_at",
    }
    assert reply["earliest_refresh_at"] - time.time() == pytest.approx(54 * 60, abs=10)
    id_claims = claims(reply["id_token"])
    assert (id_claims["iss"], id_claims["aud"]) == (simulator.issuer, [client_id])
    assert id_claims["nonce"] == query["nonce"]
    assert id_claims["email"] == "ada@example.com"
    assert "chatgpt" not in json.dumps(claims(reply["access_token"])).replace(PLAN_SCOPE, "")
    again = callback_of(
        authorize_url(
            simulator, client_id, id_token_hint=reply["id_token"], login_hint="ada@example.com"
        )
    )
    assert "client_id" not in again
    assert exchange(simulator, again, client_id=client_id).status_code == 200
    assert list(simulator.clients) == [client_id]


def test_prompts_are_answered(simulator, token):
    answer = post(
        simulator,
        token,
        input=[
            {"type": "additional_tools", "role": "developer", "tools": [FUNCTION]},
            {"role": "user", "content": 'multiply {"a": 6}'},
        ],
    )
    assert answer.status_code == 200
    assert "Content-Type" not in answer.headers
    assert answer.headers["x-request-id"]
    assert not [name for name in answer.headers if name.startswith(("x-codex", "x-models"))]
    frames = answer.text.strip().split("\n\n")
    items = [json.loads(frame.split("data: ")[1]).get("item", {}) for frame in frames]
    assert [i["name"] for i in items if i.get("type") == "function_call"] == ["multiply"] * 2


def test_the_openai_package_reads_the_answer(simulator, token):
    simulator.answer(Think(["**One**"]), Say("Text"))
    client = openai.OpenAI(api_key=token, base_url=simulator.api_url)
    with client.responses.create(**BODY) as stream:
        seen = list(stream)
    assert seen[-1].type == "response.completed"
    assert "".join(e.delta for e in seen if e.type == "response.output_text.delta") == "Text"
    assert simulator.official_prompts == [BODY]


def test_the_issuer_describes_itself(simulator):
    configuration = client.get(f"{simulator.issuer}/.well-known/openid-configuration").json()
    assert configuration["grant_types_supported"] == ["authorization_code", "refresh_token"]
    assert configuration["token_endpoint"] == f"{simulator.issuer}/api/accounts/oauth/token"
    assert configuration["revocation_endpoint"] == f"{simulator.issuer}/api/accounts/oauth/revoke"
    assert client.get(configuration["jwks_uri"]).json()["keys"][0]["kty"] == "RSA"


def test_every_parameter_of_the_authorize_address_is_checked(simulator):
    same_value = "s" * 43
    wrong = {
        "client_id": [None, "app_EMoamEEZ73f0CkXaXp7hrann"],
        "agent_name_hint": [None, "", "My Codex", "OpenAI helper"],
        "ext_agent_host_id": [None, "a-host", "urn:uuid:5e1f7a3c-0000-1000-8000-00000000ada0"],
        "response_type": [None, "token"],
        "redirect_uri": [
            None,
            "http://localhost:54321/auth/callback",
            "https://127.0.0.1:1/auth/callback",
            "http://127.0.0.1/auth/callback",
            "http://127.0.0.1:54321/callback",
        ],
        "scope": [None, OFFICIAL_SCOPE + " more", OFFICIAL_SCOPE.replace(" resource.invoke", "")],
        "resource": [None, "https://api.openai.com/v1/", simulator.api_url],
        "state": [None, "short"],
        "nonce": [None, "short"],
        "code_challenge": [None, "c" * 42],
        "code_challenge_method": [None, "plain"],
        "prompt": ["login"],
        "force_reconsent": ["true"],
        "id_token_hint": ["a.b.c"],
        "originator": ["llm"],
    }
    for name, values in wrong.items():
        for value in values:
            status, _, page = fetch(authorize_url(simulator, **{name: value}), redirects=False)
            assert (status, name in page) == (400, True), (name, value, page)
    url = authorize_url(simulator, state=same_value, nonce=same_value)
    assert fetch(url, redirects=False)[0] == 400
    assert fetch(authorize_url(simulator, "oaiapp_00"), redirects=False)[0] == 400
    client_id = simulator.register()
    named = authorize_url(simulator, client_id, agent_name_hint="another-client")
    assert fetch(named, redirects=False)[0] == 400
    assert callback_of(authorize_url(simulator, client_id, prompt="consent"))["code"]


def test_an_exchange_must_match_its_authorization(simulator):
    for changes, code in (
        ({"client_id": None}, "invalid_client"),
        ({"client_id": REGISTRATION}, "invalid_client"),
        ({"client_id": simulator.register()}, "invalid_grant"),
        ({"code": "ac_0"}, "invalid_grant"),
        ({"code_verifier": "w" * 43}, "invalid_grant"),
        ({"redirect_uri": CALLBACK.replace("54321", "54322")}, "invalid_grant"),
        ({"resource": None}, "invalid_request"),
        ({"resource": simulator.api_url}, "invalid_target"),
        ({"scope": OFFICIAL_SCOPE}, "invalid_request"),
        ({"grant_type": "device_code"}, "unsupported_grant_type"),
    ):
        refused = exchange(simulator, callback_of(authorize_url(simulator)), **changes)
        assert refused.json() == {"error": code}, changes
    callback = callback_of(authorize_url(simulator))
    assert exchange(simulator, callback).status_code == 200
    assert exchange(simulator, callback).json() == {"error": "invalid_grant"}


def test_a_test_can_change_the_callback(simulator):
    simulator.official.callback = {"client_id": REGISTRATION, "code": ["one", "two"], "new": "x"}
    back = urllib.parse.urlsplit(redirect_of(authorize_url(simulator))).query
    query = urllib.parse.parse_qs(back)
    assert query["client_id"] == [REGISTRATION]
    assert query["code"] == ["one", "two"]
    assert query["new"] == ["x"]
    simulator.official.callback = {"client_id": None}
    assert "client_id" not in callback_of(authorize_url(simulator))
    simulator.official.callback = {}
    simulator.official.declined = True
    declined = callback_of(authorize_url(simulator))
    assert declined["error"] == "access_denied"
    assert "code" not in declined
    assert "client_id" not in declined


def test_a_login_without_the_plan_cannot_send_prompts(simulator):
    simulator.official.scope = OFFICIAL_SCOPE.replace(f" {PLAN_SCOPE}", "")
    reply = exchange(simulator, callback_of(authorize_url(simulator))).json()
    assert PLAN_SCOPE not in reply["scope"]
    assert post(simulator, reply["access_token"]).status_code == 403
    simulator.official.withholds_tokens = True
    reply = exchange(simulator, callback_of(authorize_url(simulator))).json()
    assert reply["id_token"]
    assert not {"access_token", "refresh_token"} & set(reply)


def test_a_test_can_change_the_claims(simulator):
    simulator.official.id_token = {"nonce": "other", "aud": lambda aud: aud[0], "azp": None}
    id_claims = claims(simulator.sign_in_officially(client_id="oaiapp_1")["id_token"])
    assert id_claims["nonce"] == "other"
    assert id_claims["aud"] == "oaiapp_1"
    assert "azp" not in id_claims
    bob = Account(email="bob@example.com", user_id="user-bob")
    assert claims(simulator.sign_in_officially(bob)["id_token"])["sub"] != id_claims["sub"]


def test_a_refresh_token_works_once_and_only_in_a_valid_request(simulator):
    reply = simulator.sign_in_officially(ago=3500)
    new = refresh(simulator, reply).json()
    assert post(simulator, new["access_token"]).status_code == 200
    assert new["refresh_token"] != reply["refresh_token"]
    assert claims(new["id_token"])["sub"] == claims(reply["id_token"])["sub"]
    assert refresh(simulator, reply).json() == {"error": "refresh_token_reused"}
    for changes, code in (
        ({"scope": OFFICIAL_SCOPE}, "invalid_request"),
        ({"resource": None}, "invalid_request"),
        ({"client_id": simulator.register()}, "invalid_grant"),
        ({"refresh_token": "rt_0"}, "invalid_grant"),
    ):
        another = simulator.sign_in_officially(ago=3500)
        assert refresh(simulator, another, **changes).json() == {"error": code}
    fields = dict(urllib.parse.parse_qsl(simulator.requests[-1].raw.decode()))
    fields["refresh_token"] = simulator.sign_in_officially(client_id=fields["client_id"], ago=3500)[
        "refresh_token"
    ]
    url = f"{simulator.issuer}/api/accounts/oauth/token"
    assert client.post(url, json=fields).json() == {"error": "invalid_request"}
    assert client.post(url, data=fields).status_code == 200
    month = 31 * 24 * 3600
    old = simulator.sign_in_officially(ago=month)
    assert refresh(simulator, old).json() == {"error": "refresh_token_expired"}
    assert len(simulator.refreshes) == 9


def test_a_refresh_is_refused_before_its_earliest_time(simulator):
    reply = simulator.sign_in_officially()
    assert refresh(simulator, reply).json() == {"error": "invalid_grant"}
    later = time.time() + 3600 - 359
    simulator.clock = lambda: later
    assert refresh(simulator, reply).status_code == 200
    simulator.clock = time.time
    simulator.official.early_refresh_spends = True
    reply = simulator.sign_in_officially()
    assert refresh(simulator, reply).json() == {"error": "invalid_grant"}
    assert refresh(simulator, reply).json() == {"error": "refresh_token_reused"}


def test_refreshes_and_their_errors_have_each_documented_form(simulator):
    settings = simulator.official
    for form in ("null", "absent"):
        settings.earliest_refresh_form = form
        reply = simulator.sign_in_officially()
        assert reply.get("earliest_refresh_at", "absent") == {"null": None}.get(form, "absent")
        assert refresh(simulator, reply).status_code == 200
    settings.earliest_refresh_form = "text"
    assert simulator.sign_in_officially()["earliest_refresh_at"].endswith("+00:00")
    settings.refresh_omits = ("scope", "id_token")
    reply = simulator.sign_in_officially(ago=3500)
    assert not {"scope", "id_token"} & set(refresh(simulator, reply).json())
    settings.refresh_error, settings.nested_errors = "invalid_grant", True
    reply = simulator.sign_in_officially(ago=3500)
    assert refresh(simulator, reply).json()["error"]["code"] == "invalid_grant"
    settings.refresh_error = None
    simulator.end_official_logins("token_expired")
    assert refresh(simulator, reply).json()["error"]["code"] == "token_expired"


def test_a_revoked_login_cannot_be_refreshed(simulator):
    reply = simulator.sign_in_officially(ago=3500)
    client_id = claims(reply["id_token"])["aud"][0]
    fields = {"token": reply["refresh_token"], "token_type_hint": "refresh_token"}
    assert post_form(simulator, "revoke", **fields).status_code == 401
    for _ in range(2):
        answer = post_form(simulator, "revoke", client_id=client_id, **fields)
        assert (answer.status_code, answer.content) == (200, b"")
    assert refresh(simulator, reply).json() == {"error": "refresh_token_invalidated"}


def test_the_routes_refuse_each_others_tokens(simulator):
    official, codex = simulator.sign_in_officially(), simulator.sign_in()
    bearer = {"Authorization": f"Bearer {official['access_token']}"}
    for path in ("codex/models?client_version=1.0.0", "wham/usage"):
        assert client.get(f"{simulator.base_url}/{path}", headers=bearer).status_code == 401
    url = f"{simulator.base_url}/codex/responses"
    assert client.post(url, json=BODY, headers=bearer).status_code == 401
    assert post(simulator, codex["access_token"]).status_code == 401
    fields = {"client_id": CLIENT_ID, "refresh_token": official["refresh_token"]}
    fields_sent = {"grant_type": "refresh_token", **fields}
    assert client.post(f"{simulator.issuer}/oauth/token", json=fields_sent).status_code == 401
    ended = {"client_id": CLIENT_ID, "token": official["refresh_token"]}
    assert client.post(f"{simulator.issuer}/oauth/revoke", json=ended).status_code == 401
    mixed = refresh(simulator, official, refresh_token=codex["refresh_token"])
    assert mixed.json() == {"error": "invalid_grant"}


def test_an_expired_official_token_is_refused_with_its_code(simulator, token):
    simulator.expire_access_tokens()
    answer = post(simulator, token)
    assert answer.status_code == 401
    assert answer.json() == {"detail": {"error_code": "invalid_token"}}


def test_no_header_may_name_an_account_or_a_client(simulator, token):
    for name in (
        "ChatGPT-Account-ID",
        "OpenAI-Organization",
        "OpenAI-Project",
        "originator",
        "x-codex-turn-state",
    ):
        answer = post(simulator, token, {name: "x"})
        assert (answer.status_code, name.lower() in answer.text) == (400, True)


def test_a_session_may_be_named_and_refused(simulator, token):
    session = {"session-id": str(uuid.uuid4()), "x-client-request-id": str(uuid.uuid4())}
    assert post(simulator, token, session).status_code == 200
    simulator.official.refused_headers = {"session-id"}
    answer = post(simulator, token, session)
    assert (answer.status_code, answer.json()["detail"]) == (400, "Unexpected header: session-id")


def test_models_are_filtered_and_not_sorted_by_priority(simulator, token):
    def listed(version):
        query = {"client_version": version} if version else {}
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{simulator.api_url}/models"
        return client.get(url, params=query, headers=headers).json()["models"]

    models = listed("999.0.0")
    priorities = [model["priority"] for model in models]
    assert priorities != sorted(priorities)
    assert {model["visibility"] for model in models} == {"list", "hide"}
    assert [m["slug"] for m in models if not m["supported_in_api"]] == ["gpt-6-chat"]
    newer = {"gpt-6.1-sol", "gpt-6-sol", "gpt-6-luna"}
    assert newer <= {model["slug"] for model in listed("0.160.0")}
    assert not newer & {model["slug"] for model in listed(None)}


def test_bodies_are_refused_as_documented(simulator, token):
    problems = [{"loc": ["body", "input"], "type": "list_type"}]
    answer = post(simulator, token, input="hi")
    assert (answer.status_code, answer.json()) == (422, {"detail": problems})
    for name in (
        "background",
        "conversation",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "moderation",
        "multi_agent",
        "prompt",
        "prompt_cache_retention",
        "safety_identifier",
        "temperature",
        "top_logprobs",
        "top_p",
        "truncation",
        "user",
        "previous_response_id",
        "prompt_cache_options",
        "prompt_cache_breakpoint",
    ):
        answer = post(simulator, token, **{name: 1})
        assert (answer.status_code, name in answer.json()["detail"]) == (400, True), name
    for changes in (
        {"store": None},
        {"store": True},
        {"stream": None},
        {"service_tier": "flex"},
        {"input": [{"role": "system", "content": "hi"}]},
        {"model": None},
    ):
        assert post(simulator, token, **changes).status_code == 400, changes
    for kind in ("compaction_trigger", "agent_message", "configuration_update", "unheard_of"):
        answer = post(simulator, token, input=[{"type": kind}])
        assert answer.json()["error"]["param"] == "input"
    compaction = {"type": "compaction", "encrypted_content": "gAAAA"}
    assert post(simulator, token, input=[*BODY["input"], compaction]).status_code == 200
    audio = [{"role": "user", "content": [{"type": "input_audio", "data": "x"}]}]
    assert post(simulator, token, input=audio).status_code == 400
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{simulator.api_url}/responses"
    assert client.post(url, content=json.dumps(BODY), headers=headers).status_code == 400
    more = {"instructions": "Be brief.", "service_tier": "priority", "prompt_cache_key": "k"}
    assert post(simulator, token, **more).status_code == 200


def test_tools_must_be_in_the_right_part_of_the_body(simulator, token):
    def declared(*tools):
        return [{"type": "additional_tools", "role": "developer", "tools": tools}, *BODY["input"]]

    refused = "subscription_sharing_unsupported_capability"
    for kind in ("image_generation", "tool_search"):
        error = post(simulator, token, tools=[{"type": kind}]).json()["error"]
        assert (error["code"], error["param"]) == (refused, "tools")
        assert post(simulator, token, input=declared({"type": kind})).status_code == 400
    for kind in ("file_search", "code_interpreter", "computer_use_preview", "mcp"):
        answer = post(simulator, token, tools=[{**FUNCTION, "type": kind}])
        assert "Unsupported tool type" in answer.json()["error"]["message"]
    assert post(simulator, token, input=declared({"type": "web_search"})).status_code == 400
    assert post(simulator, token, input=declared(FUNCTION)[::-1]).status_code == 400
    without_strict = {k: v for k, v in FUNCTION.items() if k != "strict"}
    assert post(simulator, token, input=declared(without_strict)).status_code == 400
    assert post(simulator, token, input=declared(FUNCTION)).status_code == 200
    group = {"type": "namespace", "name": "math", "description": "", "tools": [FUNCTION]}
    assert post(simulator, token, tools=[group, {"type": "web_search"}]).status_code == 200
    nested = {**group, "tools": [{"type": "image_generation"}]}
    assert post(simulator, token, tools=[nested]).status_code == 400
    assert post(simulator, token, tools=[FUNCTION]).status_code == 200
    assert post(simulator, token, tools=[without_strict]).status_code == 200
    simulator.official.flat_tools = False
    assert post(simulator, token, tools=[FUNCTION]).status_code == 400


def test_only_newer_models_accept_a_tool_choice(simulator, token):
    simulator.account.extra_models = ("gpt-5.5",)
    tools = {"type": "additional_tools", "role": "developer", "tools": [FUNCTION]}
    body = {"input": [tools, *BODY["input"]]}
    choice = {"type": "function", "name": "multiply"}
    assert post(simulator, token, **body, tool_choice=choice).status_code == 200
    assert post(simulator, token, **body, tool_choice=choice, model="gpt-5.5").status_code == 400
    unknown = {**choice, "name": "divide"}
    assert post(simulator, token, **body, tool_choice=unknown).status_code == 400
    assert post(simulator, token, **body, tool_choice="auto", model="gpt-5.5").status_code == 200


def test_reasoning_belongs_to_client_user_and_route(simulator, token):
    simulator.answer(Think(), Call("multiply", {}))
    frames = post(simulator, token).text.strip().split("\n\n")
    events = [json.loads(frame.split("data: ")[1]) for frame in frames]
    done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    thought = {k: v for k, v in done[0].items() if k != "id"}
    again = [*BODY["input"], thought, {"role": "assistant", "content": "hi"}]
    assert post(simulator, token, input=again).status_code == 200
    stranger = simulator.sign_in_officially()["access_token"]
    assert post(simulator, stranger, input=again).status_code == 400
    headers = {
        "Authorization": f"Bearer {simulator.sign_in()['access_token']}",
        "ChatGPT-Account-ID": simulator.account.account_id,
    }
    url = f"{simulator.base_url}/codex/responses"
    assert client.post(url, json={**BODY, "input": again}, headers=headers).status_code == 400


def test_phases_must_be_sent_back(simulator, token):
    simulator.demands_phases = True
    simulator.answer(Say("Text", phase="commentary"))
    post(simulator, token, prompt_cache_key="k")
    message = {"role": "assistant", "content": "Text"}
    for phase, status in (("final_answer", 400), ("commentary", 200)):
        again = [*BODY["input"], {**message, "phase": phase}, *BODY["input"]]
        answer = post(simulator, token, prompt_cache_key="k", input=again)
        assert answer.status_code == status


def test_a_capability_can_be_missing(simulator, token):
    simulator.official.refused_capabilities = {"web_search", "input_image"}
    answer = post(simulator, token, tools=[{"type": "web_search"}])
    assert answer.json()["error"]["param"] == "web_search"
    part = {"type": "input_image", "image_url": "https://example.com/pelican.png"}
    answer = post(simulator, token, input=[{"role": "user", "content": [part]}])
    assert answer.json()["error"]["param"] == "input_image"


def test_every_error_can_come_instead_of_a_stream_or_in_it(simulator, token):
    for code, status in PLAN_ERRORS.items():
        simulator.script("official_responses", plan_error(code, param="tools"))
        simulator.script("official_responses", simulator.plan_failure(code, Say("Begun")))
        whole, stream = post(simulator, token), post(simulator, token)
        assert whole.status_code == status
        assert whole.json()["error"]["code"] == code
        assert stream.status_code == 200
        last = json.loads(stream.text.strip().split("data: ")[-1])
        assert last["type"] == "response.failed"
        assert last["response"]["error"]["code"] == code
    code = "subscription_sharing_usage_limit_exceeded"
    older = plan_error(code, v2=True).body["error"]["code"]
    assert older == "subscription_sharing_v2_usage_limit_exceeded"
