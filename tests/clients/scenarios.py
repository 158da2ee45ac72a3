"""The steps of each client, and the requests that the simulator must then have received.

The scripts of the Python libraries are in scripts/.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

from sandbox import Client

from simulator import Answer, Call, Say, Think, error_answer


@dataclasses.dataclass
class Scenario:
    """A client, the packages to install (the first is the client itself), and its acts."""

    name: str
    packages: tuple[str, ...]
    acts: tuple[Callable[[Client], None], ...]
    npm: bool = False


def address_opener(client: Client, path: str) -> Callable[[str], Any]:
    """Return an `on_line` function that opens the first address with this path in a browser."""
    opened: list[str] = []

    def on_line(line: str) -> None:
        found = re.search(rf"https://\S+{re.escape(path)}\?\S+", line)
        if found and not opened:
            opened.append(found[0])
            client.browse(found[0])

    return on_line


def tool_outputs(body: dict[str, Any]) -> list[Any]:
    return [item["output"] for item in body["input"] if item.get("type", "").endswith("_output")]


def roles(body: dict[str, Any]) -> list[str]:
    return [item["role"] for item in body["input"] if item.get("type") == "message"]


# Codex CLI ------------------------------------------------------------------------------

EXEC = ("codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
MODEL = "gpt-6.1-sol"
# NEAR has MODEL's `comp_hash`, FAR another. FAR is retired, but this account still has it.
NEAR, FAR = "gpt-6-luna", "gpt-5.2-codex"


def sign_in_with_codex(client: Client) -> None:
    client.simulator.approve_after_polls = 1
    client.run("codex", "login", "--device-auth")


def codex_signs_in_and_out(client: Client) -> None:
    """device code, browser, status and logout"""
    sign_in_with_codex(client)
    status = client.run("codex", "login", "status")
    client.expect("ChatGPT" in status, f"status said {status}")
    client.run("codex", "login", on_line=address_opener(client, "/oauth/authorize"))
    client.expect(
        len(client.simulator.seen("/oauth/revoke")) == 1, "The old login was not revoked."
    )
    client.run("codex", "logout")
    client.expect(len(client.simulator.seen("/oauth/revoke")) == 2, "Logout did not revoke.")


def codex_prompts(client: Client) -> None:
    """a prompt, a tool turn, resume, and a usage limit"""
    simulator = client.simulator
    sign_in_with_codex(client)
    output = client.run(*EXEC, "-m", MODEL, "Say hello")
    client.expect("You said: Say hello" in output, f"It printed {output}")
    body = simulator.prompts[-1]
    client.expect("instructions" not in body, "It sent instructions.")
    client.expect(roles(body)[0] == "developer", "Its first message is not the developer's.")
    client.expect(body["reasoning"]["effort"] == "low", "Its effort is not the catalogue's.")

    command = {"cmd": "echo pelican-$((6 * 7))"}
    simulator.answer(Think(["**Running**"]), Call("exec_command", command, namespace="functions"))
    output = client.run(*EXEC, "resume", "--last", "-m", MODEL, "Run it")
    last = simulator.prompts[-1]
    client.expect("pelican-42" in json.dumps(tool_outputs(last)), "The tool's output is missing.")
    client.expect("The tool returned" in output, f"It printed {output}")
    client.expect("Say hello" in json.dumps(last["input"]), "It did not resume.")
    thoughts = [item for item in last["input"] if item.get("type") == "reasoning"]
    client.expect(len(thoughts) == 2, f"{len(thoughts)} pieces of reasoning came back.")
    removals = simulator.reasoning.removals(last, simulator.account.account_id)
    client.expect(removals == [], f"Its reasoning would be removed: {removals}")

    simulator.limit_reached = True
    output = client.run(*EXEC, "resume", "--last", "More", code=1)
    client.expect("usage limit" in output, f"It printed {output}")


def codex_changes_the_model(client: Client) -> None:
    """resume with another model, and with one that first needs a compaction"""
    simulator = client.simulator
    account_id = simulator.account.account_id
    sign_in_with_codex(client)
    client.run(*EXEC, "-m", MODEL, "Say hello")
    for slug in (NEAR, FAR):
        before = len(simulator.prompts)
        output = client.run(*EXEC, "resume", "--last", "-m", slug, f"Now {slug}")
        client.expect(f"Now {slug}" in output, f"It printed {output}")
        client.expect(simulator.prompts[-1]["model"] == slug, "Another model answered.")
        removals = simulator.reasoning.removals(simulator.prompts[-1], account_id)
        client.expect(removals == [], f"Its reasoning would be removed: {removals}")
        sent = [item.get("type") for body in simulator.prompts[before:] for item in body["input"]]
        compacted = "compaction_trigger" in sent
        client.expect(compacted == (slug == FAR), f"Compacted for {slug}: {compacted}")


def codex_survives_faults(client: Client) -> None:
    """an expired token, an overloaded model, reasoning that was removed"""
    simulator = client.simulator
    sign_in_with_codex(client)
    client.run(*EXEC, "-m", MODEL, "Say hello")
    simulator.expire_access_tokens()
    client.run(*EXEC, "resume", "--last", "Again")
    client.expect(len(simulator.refreshes) == 1, f"{len(simulator.refreshes)} refreshes")
    before = len(simulator.prompts)
    simulator.script("responses", error_answer(503, "server_is_overloaded"))
    removed = {"type": "reasoning", "action": "removed", "reason": "model_mismatch"}
    simulator.answer(Say("Done."), input_transformations=[removed])
    output = client.run(*EXEC, "resume", "--last", "And again")
    client.expect("Done." in output, f"It printed {output}")
    client.expect(len(simulator.prompts) - before == 2, "It did not send the prompt again.")


# Other plugins for llm -------------------------------------------------------------------


def llm_codex_works(client: Client) -> None:
    """device code, browser, prompt, conversation, tool turn, schema, usage, refresh"""
    simulator = client.simulator
    simulator.approve_after_polls = 1
    client.run("llm", "codex", "login", "--device-code")
    client.run("llm", "codex", "login", on_line=address_opener(client, "/oauth/authorize"))
    name = "codex/gpt-6-astra"
    output = client.run("llm", "-m", name, "Say hello")
    client.expect("You said: Say hello" in output, f"It printed {output}")
    output = client.run("llm", "-c", "And more")
    client.expect("This is answer 2" in output, f"It printed {output}")
    function = "def multiply(a: int, b: int) -> int:\n    return a * b"
    output = client.run("llm", "-m", name, 'multiply {"a": 6, "b": 7}', "--functions", function)
    client.expect("The tool returned: 42" in output, f"It printed {output}")
    output = client.run("llm", "-m", name, "a dog", "--schema", "name, age int")
    # The reasoning, on stderr, comes before the JSON.
    client.expect(json.loads(output[output.index("{") :])["age"] == 7, f"It printed {output}")
    output = client.run("llm", "codex", "usage")
    client.expect("%" in output, f"It printed {output}")
    client.run("llm", "codex", "refresh")
    client.run("llm", "-m", name, "Say hello")


def llm_plan_works(client: Client) -> None:
    """sign-in, models, prompt, conversation, refresh, sign-out"""
    # So short that the token has to be refreshed before each prompt.
    client.simulator.official.access_token_seconds = 30
    browse = address_opener(client, "/api/accounts/authorize")
    client.run("llm", "chatgpt-plan", "login", "--manual", on_line=browse)
    models = client.run("llm", "chatgpt-plan", "models")
    # It names no client version, so the newest models are not listed for it.
    listed = re.search(r"\S+/gpt-5.6-luna", models)
    client.expect(listed, f"It listed {models}")
    output = client.run("llm", "-m", listed[0], "Say hello", "-s", "Be brief.")
    client.expect("You said: Say hello" in output, f"It printed {output}")
    output = client.run("llm", "-c", "And more")
    client.expect("This is answer 2" in output, f"It printed {output}")
    client.expect(len(client.simulator.refreshes) == 2, "It did not refresh its token.")
    client.run("llm", "chatgpt-plan", "logout")
    client.expect(client.simulator.seen("/oauth/revoke"), "It did not revoke its token.")


# Libraries --------------------------------------------------------------------------------


def pydantic_codex_works(client: Client) -> None:
    """Codex route: browser, prompt, refresh after a 401, tool turn, stream, structured output"""
    client.simulator.script("responses", None, error_answer(401, "token_expired"))
    browse = address_opener(client, "/oauth/authorize")
    output = client.python("pydantic_codex.py", on_line=browse)
    client.expect("pelican-42" in output, f"It printed {output}")
    client.expect(len(client.simulator.refreshes) == 1, "It did not refresh its token.")


def pydantic_official_works(client: Client) -> None:
    """official route: sign-in, prompt, refresh after a 401, tool turn, stream, structured output"""
    client.simulator.official.earliest_refresh_form = "absent"
    ended = Answer(401, {"detail": {"error_code": "invalid_token"}})
    client.simulator.script("official_responses", None, ended)
    browse = address_opener(client, "/api/accounts/authorize")
    output = client.python("pydantic_official.py", on_line=browse)
    client.expect("pelican-42" in output, f"It printed {output}")
    client.expect(len(client.simulator.refreshes) == 1, "It did not refresh its token.")
    flat = [body for body in client.simulator.official_prompts if body.get("tools")]
    client.expect(flat, "It sent no tools in `tools`.")


def litellm_works(client: Client) -> None:
    """device code, chat completion, stream, tool turn, responses, refresh"""
    client.simulator.approve_after_polls = 0
    # So short that the token has to be refreshed before each prompt.
    client.simulator.account.access_token_seconds = 30
    output = client.python("litellm_codex.py")
    client.expect("pelican-42" in output, f"It printed {output}")
    client.expect(client.simulator.refreshes, "It did not refresh its token.")


def openai_works(client: Client) -> None:
    """official route: models, tools in `tools` and in `input`, refusals as its own errors"""
    token = client.simulator.sign_in_officially()["access_token"]
    output = client.python("openai_official.py", OPENAI_API_KEY=token)
    client.expect(output.count("pelican-42") == 2, f"It printed {output}")
    client.expect("422" in output, f"It printed {output}")


SCENARIOS = {
    scenario.name: scenario
    for scenario in [
        Scenario(
            "codex",
            ("@openai/codex@0.171.0",),
            (codex_signs_in_and_out, codex_prompts, codex_changes_the_model, codex_survives_faults),
            npm=True,
        ),
        Scenario("llm-openai-codex", ("llm-openai-codex==0.10.1", "llm"), (llm_codex_works,)),
        Scenario("llm-chatgpt-plan", ("llm-chatgpt-plan==0.2.0", "llm"), (llm_plan_works,)),
        Scenario(
            "pydantic-ai",
            ("pydantic-ai-slim[openai]==2.68.0",),
            (pydantic_codex_works, pydantic_official_works),
        ),
        Scenario("litellm", ("litellm==1.110.2",), (litellm_works,)),
        Scenario("openai", ("openai==3.57.0",), (openai_works,)),
    ]
}
