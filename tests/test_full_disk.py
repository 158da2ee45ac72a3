"""Tests on a disk that is really full, and with a real limit on the size of files."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

import llm_chatgpt_oauth as plugin
from conftest import expire, sign_in, sign_in_officially
from llm_chatgpt.login.login_file import store_path
from llm_chatgpt.login.store import Store

LLM = [sys.executable, "-m", "llm"]
# llm itself cannot open its logs on such a disk.
GET_TOKENS = [
    sys.executable,
    "-c",
    "import llm_chatgpt_oauth as p\n"
    "try: p.get_tokens()\n"
    "except p.StoreError as error: exit(f'Error: {error}')",
]


@pytest.fixture(autouse=True)
def without_coverage(monkeypatch):
    """Turn off coverage in the programs, because its data could not be stored either."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)


class SmallDisk:
    """A file system of 128 KiB in a mount namespace of its own, with llm's folder on it."""

    def __init__(self, folder: pathlib.Path):
        self.mount, self.copy = folder / "disk", folder / "copy"
        self.mount.mkdir()
        self.saved = folder / "saved.json"

    def start(self, *command: str, full: bool = True) -> subprocess.Popen[str]:
        """Start a command on the disk. After its end, `store` is the login file that it left."""
        mount, copy, saved = map(shlex.quote, map(str, (self.mount, self.copy, self.saved)))
        shutil.copytree(store_path().parent, self.copy, dirs_exist_ok=True)
        fill = f"cat /dev/zero > {mount}/fill 2>/dev/null" if full else "true"
        script = (
            f"mount -t tmpfs -o size=128k tmpfs {mount} && cp -a {copy}/. {mount} && {{ {fill}; "
            f"{shlex.join(command)}; code=$?; cp {mount}/chatgpt-oauth.json {saved}; exit $code; }}"
        )
        return subprocess.Popen(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
            env={**os.environ, "LLM_USER_PATH": str(self.mount)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str) -> tuple[int, str, str]:
        process = self.start(*command)
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in out + err
        return process.returncode, out, err

    @property
    def store(self) -> Store:
        return Store(json.loads(self.saved.read_text()))


@pytest.fixture
def disk(tmp_path):
    probe = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs a mount namespace")
    return SmallDisk(tmp_path)


def test_a_login_is_refused_before_a_code_is_shown(simulator, signed_in, disk):
    code, _, err = disk.run(*LLM, "chatgpt", "login", "--account", "new")
    assert code == 1
    assert err.splitlines()[-1].startswith("Error: Could not write the login file")
    assert "No space left on device" in err
    assert simulator.requests == []


def test_doctor_says_that_no_login_can_be_stored(simulator, signed_in, disk):
    code, out, _ = disk.run(*LLM, "chatgpt", "doctor")
    assert code == 1
    assert "broken   storage: no login can be stored\n" in out
    assert "No space left on device" in out


def test_no_refresh_token_is_sent(simulator, signed_in, disk):
    expire()
    code, _, err = disk.run(*GET_TOKENS)
    assert code == 1
    assert err.startswith("Error: Could not write the login file")
    assert "No space left on device" in err
    assert simulator.requests == []


@pytest.mark.parametrize("route", ["codex", "official"])
def test_a_disk_that_fills_up_after_the_refresh_token_was_sent(simulator, disk, route):
    """The renewed login is used, and a warning says that it is not stored."""
    old = sign_in(simulator) if route == "codex" else sign_in_officially(simulator, ago=3400)
    simulator.expire_access_tokens()
    code = (
        "import llm_chatgpt_oauth as p\n"
        f"new = p.get_tokens(rejected={old.access_token!r})\n"
        f"assert new.refresh_token != {old.refresh_token!r}\n"
        "assert p.get_tokens() == new\n"
    )

    def fill_up(request):
        # The file system as the process sees it, which is in another namespace than the test.
        (pid,) = subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()
        with open(f"/proc/{pid}/root{disk.mount}/fill", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                return

    simulator.script("token" if route == "codex" else "official_token", fill_up)
    process = disk.start(sys.executable, "-c", code, full=False)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "the login was renewed but not stored. Could not write the login file" in err
    assert "No space left on device" in err
    assert len(simulator.refreshes) == 1
    # The old file is whole.
    assert disk.store.get() == old


def test_a_logout_signs_out_and_leaves_the_other_accounts(simulator, disk):
    ada = sign_in(simulator)
    work = sign_in_officially(simulator, "work")
    code, out, err = disk.run(*LLM, "chatgpt", "logout", "--account", "work")
    assert (code, out.splitlines()[0]) == (0, "Signed out of account work.")
    assert "No space left on device" in err
    assert "removed from the old file" in err
    assert disk.store.accounts == {"default": ada}
    assert work.refresh_token not in disk.saved.read_text()
    # Only the deleted login's session is ended at OpenAI.
    assert [r.path for r in simulator.requests] == ["/api/accounts/oauth/revoke"]


def test_a_logout_of_all_accounts_deletes_them(simulator, disk):
    sign_in(simulator)
    sign_in(simulator, "work")
    code, out, _ = disk.run(*LLM, "chatgpt", "logout", "--all")
    assert (code, out.count("Signed out of account")) == (0, 2)
    assert disk.store.accounts == {}
    assert "rt_" not in disk.saved.read_text()


def test_use_fails_and_changes_nothing(simulator, disk):
    sign_in(simulator)
    sign_in(simulator, "work")
    code, out, err = disk.run(*LLM, "chatgpt", "use", "work")
    assert (code, out) == (1, "")
    assert err.startswith("Error: Could not write the login file")
    assert disk.store.default == "default"


# A limit on the size of files, which needs no namespace -----------------------------------


def limited(*command: str, size: int) -> tuple[int, str, str]:
    """Run a command that can write files of at most `size` bytes."""
    resource = pytest.importorskip("resource")
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("size", [1, 2000])
def test_a_login_that_would_not_fit_is_refused_before_a_request(simulator, size):
    code, out, err = limited(*LLM, "chatgpt", "login", size=size)
    assert (code, out) == (1, "")
    assert "Could not write the login file" in err
    assert simulator.requests == []
    assert [path.name for path in store_path().parent.iterdir()] == ["chatgpt-oauth.json.lock"]


def test_no_refresh_token_is_sent_if_the_new_login_might_not_fit(simulator, signed_in):
    """The old file fits, and one for a new login might not."""
    expire()
    code, _, err = limited(*GET_TOKENS, size=store_path().stat().st_size + 100)
    assert code == 1
    assert err.startswith("Error: Could not write the login file")
    assert simulator.refreshes == []
    assert plugin.load_tokens().refresh_token == signed_in.refresh_token
