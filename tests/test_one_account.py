"""A prompt keeps the account that it began with, whatever happens while it waits."""

from __future__ import annotations

import pytest

import llm_chatgpt_oauth as plugin
from conftest import BOB, bearers, new_login, sign_in, sign_in_officially
from llm_chatgpt.login.login_file import delete_tokens, locked_store, read_store
from simulator import Account, Answer

# A colleague in Ada's workspace: both logins have the same account id.
COLLEAGUE = Account(email="eve@example.com")


def use(name):
    with locked_store() as writer:
        writer.save(read_store().with_default(name))


@pytest.fixture
def meanwhile(simulator, short_pauses):
    """Return a function that lets `action` run during the first attempt, which then fails."""

    def arrange(action, endpoint="responses"):
        def respond(request):
            action()
            return Answer(503)

        simulator.script(endpoint, respond)

    return arrange


def test_a_new_default_account_applies_to_the_next_prompt(simulator, meanwhile, ask):
    ada, bob = sign_in(simulator), new_login(simulator, BOB)
    plugin.store_tokens(bob, "work")
    meanwhile(lambda: use("work"))
    assert ask("one").text
    assert ask("two").text
    assert bearers(simulator) == [ada.access_token] * 2 + [bob.access_token]


@pytest.mark.parametrize("other", ["an account", "a token in the environment"])
def test_after_a_logout_no_other_account_is_used(simulator, meanwhile, ask, monkeypatch, other):
    sign_in(simulator)
    if other == "an account":
        plugin.store_tokens(new_login(simulator, BOB), "work")
    else:
        simulator.personal_tokens["at-bob"] = BOB
        monkeypatch.setenv("CODEX_ACCESS_TOKEN", "at-bob")
    meanwhile(lambda: delete_tokens("default"))
    with pytest.raises(plugin.NotSignedIn, match="signed out"):
        ask("one")
    assert len(bearers(simulator)) == 1


@pytest.mark.parametrize("user", [BOB, COLLEAGUE, None])
def test_another_user_under_the_same_name_is_not_used(simulator, meanwhile, ask, user):
    sign_in(simulator)

    def sign_in_somebody_else():
        if user:
            plugin.store_tokens(new_login(simulator, user))
        else:
            sign_in_officially(simulator)

    meanwhile(sign_in_somebody_else)
    with pytest.raises(plugin.NotSignedIn, match="has another login now"):
        ask("one")
    assert len(bearers(simulator)) == 1
    assert ask("two").text


def test_an_official_login_does_not_go_on_with_the_other_route(simulator, meanwhile, ask):
    sign_in_officially(simulator)
    meanwhile(lambda: sign_in(simulator), "official_responses")
    with pytest.raises(plugin.NotSignedIn, match="has another login now"):
        ask("one")
    assert simulator.prompts == []


def test_a_new_login_of_the_same_user_is_used(simulator, meanwhile, ask):
    sign_in(simulator)
    again = []
    meanwhile(lambda: again.append(sign_in(simulator)))
    assert ask("one").text
    assert bearers(simulator)[1] == again[0].access_token
