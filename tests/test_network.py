"""Proxies, certificates and workspace hosts, tested with the service's real host names."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import shutil
import ssl
import subprocess
import sys
import threading

import llm
import pytest
import trustme

import llm_chatgpt_oauth as plugin
from conftest import sign_in, start_llm
from proxy import Proxy

AUTH, BACKEND = "CONNECT auth.openai.com:443", "CONNECT chatgpt.com:443"


@pytest.fixture
def proxy(simulator, tmp_path, monkeypatch):
    """A proxy as the only way to OpenAI's hosts, under their real names."""
    for name in simulator.environment:
        monkeypatch.delenv(name)
    with Proxy(simulator, tmp_path) as proxy:
        for name, value in proxy.environment.items():
            monkeypatch.setenv(name, value)
        yield proxy


def run(*arguments):
    process = start_llm(*arguments)
    stdout, stderr = process.communicate(timeout=60)
    assert "pass-Secret" not in stdout + stderr
    assert "Traceback" not in stderr
    return process.returncode, stdout, stderr


def test_login_prompts_and_logout_go_through_the_proxy(simulator, proxy, monkeypatch):
    monkeypatch.setenv("CODEX_CA_CERTIFICATE", str(proxy.certificate))
    simulator.approve_after_polls = 0
    code, stdout, stderr = run("chatgpt", "login")
    assert code == 0, stderr
    assert "ada@example.com" in stdout
    assert "https://auth.openai.com/codex/device" in stderr
    code, stdout, stderr = run("-m", "chatgpt-gpt-6-luna", "hello", "-R")
    assert (code, stdout) == (0, "This is answer 1. You said: hello\n"), stderr
    code, stdout, stderr = run("-m", "chatgpt-gpt-6-luna", "hello", "-R", "--async")
    assert (code, stdout) == (0, "This is answer 1. You said: hello\n"), stderr
    assert run("chatgpt", "usage")[0] == 0
    assert run("chatgpt", "logout", "--revoke")[0] == 0
    assert simulator.seen("/oauth/revoke")
    assert set(proxy.targets) == {AUTH, BACKEND}


def test_an_unknown_root_is_an_error_that_names_the_setting(simulator, proxy):
    code, _, stderr = run("chatgpt", "login")
    assert code == 1
    assert re.search(r"The certificate of \S+ was not accepted", stderr)
    assert "issuer certificate" in stderr or "self-signed" in stderr.lower()
    assert "CODEX_CA_CERTIFICATE" in stderr
    assert not simulator.requests


def test_a_prompt_also_names_the_setting_for_an_unknown_root(simulator, proxy, short_pauses):
    sign_in(simulator)
    model = llm.get_model("chatgpt-gpt-6-luna")
    with pytest.raises(llm.ModelError, match="CODEX_CA_CERTIFICATE"):
        model.prompt("hello").text()

    async def ask():
        await llm.get_async_model("chatgpt-gpt-6-luna").prompt("hello").text()

    with pytest.raises(llm.ModelError, match="CODEX_CA_CERTIFICATE"):
        asyncio.run(ask())


def test_an_expired_certificate_suggests_checking_the_clock(simulator, proxy, monkeypatch):
    proxy.expired = True
    monkeypatch.setenv("SSL_CERT_FILE", str(proxy.certificate))
    code, _, stderr = run("chatgpt", "login")
    assert code == 1
    assert "expired" in stderr
    assert "clock" in stderr


def hashed_folder(certificate, folder):
    """Copy a certificate into a folder for SSL_CERT_DIR. None without openssl."""
    if shutil.which("openssl") is None:
        return None
    folder.mkdir()
    shutil.copy(certificate, folder)
    subprocess.run(["openssl", "rehash", str(folder)], check=True)
    return folder


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR", "CODEX_CA_CERTIFICATE"])
def test_each_setting_can_name_a_root(simulator, proxy, monkeypatch, tmp_path, name):
    value = proxy.certificate
    if name == "SSL_CERT_DIR":
        value = hashed_folder(value, tmp_path / "certificates")
        if value is None:
            pytest.skip("no openssl on this machine to name a certificate's file")
    monkeypatch.setenv(name, str(value))
    simulator.approve_after_polls = 0
    code, _, stderr = run("chatgpt", "login")
    assert code == 0, stderr


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the system checks certificates")


@pytest.fixture
def reads(monkeypatch):
    """Record each call that loads certificates as (thread, file or None). Returns the list."""
    found = []

    def recorded(read):
        def record_and_read(*arguments, **more):
            found.append((threading.current_thread(), more.get("cafile")))
            return read(*arguments, **more)

        return record_and_read

    for name in ("load_verify_locations", "set_default_verify_paths"):
        monkeypatch.setattr(ssl.SSLContext, name, recorded(getattr(ssl.SSLContext, name)))
    return found


@on_linux
def test_certificates_are_read_once(simulator, proxy, monkeypatch, reads):
    sign_in(simulator)
    monkeypatch.setenv("CODEX_CA_CERTIFICATE", str(proxy.certificate))

    async def ask(prompts):
        model = llm.get_async_model("chatgpt-gpt-6-luna")
        await asyncio.gather(*(model.prompt("hello").text() for _ in range(prompts)))

    asyncio.run(ask(5))
    at_first = len(reads)
    assert str(proxy.certificate) in [file for _, file in reads]
    # The event loop runs here.
    assert threading.main_thread() not in [thread for thread, _ in reads]
    asyncio.run(ask(2))
    llm.get_model("chatgpt-gpt-6-luna").prompt("hello").text()
    assert proxy.targets.count(BACKEND) >= 8
    assert len(reads) == at_first


@on_linux
@pytest.mark.parametrize(
    ("in_folder", "in_bundle", "bundle_is_read"),
    [
        (["root"], None, False),
        ([], ["root"], True),
        (None, ["root"], True),
        # A certificate that was appended to the bundle by hand.
        (["other"], ["other", "root"], True),
        # One that was put into the folder by hand.
        (["other"], ["root", "more"], True),
        (["other", "root"], ["other", "root"], False),
    ],
)
def test_the_systems_bundle_is_read_if_it_has_more_than_the_folder(
    simulator, proxy, monkeypatch, tmp_path, reads, in_folder, in_bundle, bundle_is_read
):
    roots = {"root": proxy.certificate.read_bytes()}
    roots |= {name: trustme.CA().cert_pem.bytes() for name in ("other", "more")}
    folder, bundle = tmp_path / "certs", tmp_path / "bundle.pem"
    if in_folder is not None:
        folder.mkdir()
        for name in in_folder:
            (folder / f"{name}.pem").write_bytes(roots[name])
        if shutil.which("openssl") is None:
            pytest.skip("no openssl on this machine to name a certificate's file")
        # Two names for each, as some systems have them.
        subprocess.run(["openssl", "rehash", "-compat", str(folder)], check=True)
    if in_bundle is not None:
        bundle.write_bytes(b"".join(roots[name] for name in in_bundle))
    paths = ssl.get_default_verify_paths()
    paths = paths._replace(openssl_cafile=str(bundle), openssl_capath=str(folder))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    monkeypatch.setattr("llm_chatgpt.certificates._BUNDLES", ())
    # A value of its own, because loaded certificates are cached by these variables.
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "empty"))
    plugin.request_device_code()
    assert (str(bundle) in [file for _, file in reads]) == bundle_is_read


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "CODEX_CA_CERTIFICATE"])
@pytest.mark.parametrize("content", [None, "no certificate", ""])
def test_an_unusable_certificate_file_is_named(proxy, monkeypatch, tmp_path, name, content):
    path = tmp_path / "root.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(name, str(path))
    with pytest.raises(plugin.ChatGPTError, match=f"Correct or unset {name}") as caught:
        plugin.request_device_code()
    assert ("No such file" if content is None else "no certificate in it") in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "(status 407)"),
        (b"HTTP/1.1 403 <script>\r\n\r\n", "(status 403)"),
    ],
)
def test_a_refusal_of_the_proxy_is_named(proxy, answer, words):
    proxy.answer = answer
    code, _, stderr = run("chatgpt", "login")
    assert code == 1
    assert "The proxy refused the connection" in stderr
    assert words in stderr
    assert "script" not in stderr


def test_an_unreachable_proxy_is_named(monkeypatch):
    monkeypatch.setenv("LLM_CHATGPT_ISSUER", "https://auth.openai.com")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(plugin.LoginFailed, match=r"Could not reach \S+ through the proxy"):
        plugin.request_device_code()


@pytest.mark.parametrize("value", ["ftp://127.0.0.1:1", "http://127.0.0.1:port", "://x"])
def test_an_invalid_proxy_setting_is_named(monkeypatch, value):
    monkeypatch.setenv("LLM_CHATGPT_ISSUER", "https://auth.openai.com")
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(plugin.ChatGPTError, match="HTTPS_PROXY"):
        plugin.request_device_code()


def test_a_socks_proxy_needs_a_package(monkeypatch):
    monkeypatch.setenv("LLM_CHATGPT_ISSUER", "https://auth.openai.com")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(plugin.ChatGPTError, match="llm install socksio"):
        plugin.request_device_code()


def test_this_machine_is_not_reached_through_a_proxy(simulator, signed_in, ask, monkeypatch):
    """The proxy would see the tokens unencrypted."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert ask("hello").text


# Workspaces


def test_a_workspaces_own_host_gets_its_requests(simulator, proxy, monkeypatch):
    monkeypatch.setenv("CODEX_CA_CERTIFICATE", str(proxy.certificate))
    simulator.approve_after_polls = 0
    simulator.account = dataclasses.replace(
        simulator.account, workspace_origin="https://eu.chatgpt.com"
    )
    code, _, stderr = run("chatgpt", "login")
    assert code == 0, stderr
    eu = "CONNECT eu.chatgpt.com:443"
    # chatgpt.com names the workspace's host, which then sends the model list.
    assert proxy.targets[-2:] == [BACKEND, eu]
    del proxy.targets[:]
    for arguments in (
        ("-m", "chatgpt-gpt-6-luna", "hello"),
        ("-m", "chatgpt-gpt-6-luna", "hello", "--async"),
        ("chatgpt", "usage"),
        ("chatgpt", "refresh"),
    ):
        assert run(*arguments)[0] == 0
    assert set(proxy.targets) == {eu}
    del proxy.targets[:]
    assert run("chatgpt", "login")[0] == 0
    assert proxy.targets[-2:] == [BACKEND, eu]
    monkeypatch.setenv("LLM_CHATGPT_BASE_URL", "https://chatgpt.com/backend-api")
    del proxy.targets[:]
    assert run("chatgpt", "usage")[0] == 0
    assert proxy.targets == [BACKEND]


def test_the_workspace_host_of_an_access_token_gets_its_requests(simulator, proxy, monkeypatch):
    monkeypatch.setenv("CODEX_CA_CERTIFICATE", str(proxy.certificate))
    eve = dataclasses.replace(
        simulator.account, account_id="acc-eve", workspace_origin="https://us.chatgpt.com"
    )
    simulator.personal_tokens["at-eve"] = eve
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", "at-eve")
    for _ in range(2):
        assert run("-m", "chatgpt-gpt-6-luna", "hello")[0] == 0
    us = "CONNECT us.chatgpt.com:443"
    # The model list has a connection of its own, so the number of connections varies.
    assert proxy.targets[:2] == [AUTH, BACKEND]
    assert set(proxy.targets[2:]) == {us}
