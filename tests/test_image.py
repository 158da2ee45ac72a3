"""`llm chatgpt image`: images created and edited, their files, and errors."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys

import llm
import pytest
from click.shell_completion import ShellComplete
from llm.cli import cli

from conftest import sign_in, sign_in_officially, start_llm
from llm_chatgpt import config
from llm_chatgpt.backend.images import png_size
from llm_chatgpt.commands import terminal as terminal_module
from simulator import Answer, error_answer, png, usage_limit, web_page
from terminal import Terminal, needs_pty

JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffc000110801000200031100")
WEBP = b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 320, 240)
DEFAULT_BODY = {
    "prompt": "A pelican",
    "model": "gpt-image-2",
    "size": "auto",
    "quality": "auto",
    "background": "opaque",
}


@pytest.fixture
def image(run_llm):
    return lambda *arguments, **more: run_llm("chatgpt", "image", *arguments, **more)


def requested_images(simulator):
    """The bodies of the requests for a new image."""
    return [request.body for request in simulator.seen("/images/generations")]


def error_of(result):
    """The last line on stderr, without the request's id."""
    assert result.exit_code == 1
    assert result.stdout == ""
    return re.sub(r" \[request \S+\]$", "", result.stderr.splitlines()[-1])


def saved_images():
    return list((llm.user_dir() / "chatgpt-images").glob("*"))


# Requests and output ----------------------------------------------------------------------


def test_an_image_is_created_and_saved(simulator, signed_in, image, tmp_path):
    path = tmp_path / "pelican.png"
    result = image("A pelican", "-o", str(path))
    assert result.stdout == f"{path}\n"
    assert result.stderr == ""
    assert path.read_bytes() == png(1024, 1024)
    assert requested_images(simulator) == [DEFAULT_BODY]


def test_options_are_sent(simulator, signed_in, image):
    options = ["--size", "1024x1536", "--quality", "max", "--background", "transparent"]
    result = image("A pelican", "--model", "gpt-image-2.5-flare", *options, "--json")
    (path,) = saved_images()
    assert json.loads(result.stdout) == {
        "path": str(path),
        "width": 1024,
        "height": 1536,
        "model": "gpt-image-2.5-flare",
    }
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{8}\.png", path.name)
    assert path.read_bytes() == png(1024, 1536, transparent=True)
    assert requested_images(simulator)[0] == {
        "prompt": "A pelican",
        "model": "gpt-image-2.5-flare",
        "size": "1024x1536",
        "quality": "max",
        "background": "transparent",
    }


def test_attached_images_are_sent_to_be_edited(simulator, signed_in, image, tmp_path):
    attachments = []
    for name, data in (("a.png", png(16, 16)), ("b.jpg", JPEG), ("c.webp", WEBP)):
        (tmp_path / name).write_bytes(data)
        attachments += ["-a", str(tmp_path / name)]
    assert image("Make it night", *attachments, "-a", "-", input=png(32, 32)).exit_code == 0
    (request,) = simulator.seen("/images/edits")
    urls = [url for entry in request.body.pop("images") for url in entry.values()]
    assert request.body == {**DEFAULT_BODY, "prompt": "Make it night"}
    assert [url.partition(",")[0] for url in urls] == [
        f"data:image/{kind};base64" for kind in ("png", "jpeg", "webp", "png")
    ]
    assert base64.b64decode(urls[1].partition(",")[2]) == JPEG


@pytest.mark.parametrize("content", [b"GIF89a", b"%PDF-1.4", b""])
def test_a_file_that_is_no_image_is_not_sent(simulator, signed_in, image, tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    result = image("Make it night", "-a", str(tmp_path / "a.png"))
    assert error_of(result).endswith(
        "a.png: it is not a PNG, JPEG or WebP image. Convert it or leave it out."
    )
    assert simulator.requests == []


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_the_prompt_can_come_from_stdin(simulator, signed_in, image, arguments):
    assert image(*arguments, input="A pelican\n").exit_code == 0
    assert requested_images(simulator) == [DEFAULT_BODY]
    assert image(*arguments, input=b"\xff A pelican").exit_code == 0
    assert requested_images(simulator)[1]["prompt"].endswith(" A pelican")


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_stdin_is_an_image_or_the_prompt(simulator, signed_in, image, arguments):
    result = image(*arguments, "-a", "-", input=png(32, 32))
    assert result.exit_code == 2
    assert "Error: The prompt is empty. Pass it as an argument or on stdin." in result.stderr
    assert simulator.requests == []


@pytest.mark.skipif(os.name == "nt", reason="preexec_fn needs POSIX")
def test_a_closed_stdin_brings_no_prompt(simulator, signed_in):
    with start_llm("chatgpt", "image", preexec_fn=lambda: os.close(0)) as process:
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert (
        stderr.splitlines()[-1] == "Error: The prompt is empty. Pass it as an argument or on stdin."
    )


def test_a_surrogate_in_the_prompt_becomes_a_question_mark(simulator, signed_in, image):
    assert image("A pelican \udcff").exit_code == 0
    assert requested_images(simulator)[0]["prompt"] == "A pelican ?"


def test_an_empty_prompt_is_refused(simulator, signed_in, image):
    for result in (image(" "), image(input="\n")):
        assert result.exit_code == 2
        assert "Error: The prompt is empty." in result.stderr
    assert simulator.requests == []


@pytest.mark.parametrize("repeats", [True, False])
def test_another_size_than_requested_is_noted(simulator, signed_in, image, repeats):
    simulator.image_size = "1312x1199"
    simulator.image_repeats_options = repeats
    result = image("A pelican", "--size", "1664x2496")
    assert result.stderr == "Note: the image is 1312x1199, not 1664x2496.\n"
    assert "Note" not in image("A pelican", "--size", "auto").stderr
    assert "Note" not in image("A pelican").stderr


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(32, 16), (32, 16)),
        (png(32, 16)[:20], None),
        (JPEG, None),
        (b"", None),
    ],
)
def test_the_size_is_read_from_a_png(data, expected):
    assert png_size(data) == expected


def test_an_image_of_an_unknown_format_is_saved(simulator, signed_in, image):
    data = base64.b64encode(b"a new kind").decode()
    simulator.script("draw", Answer(200, {"data": [{"b64_json": data}]}))
    result = image("A pelican", "--size", "1024x1024", "--json")
    report = json.loads(result.stdout)
    assert (report["width"], report["height"]) == (None, None)
    assert pathlib.Path(report["path"]).read_bytes() == b"a new kind"


def test_account_chooses_the_login(simulator, signed_in, image):
    work = sign_in(simulator, "work")
    image("A pelican", "--account", "work")
    assert simulator.seen("/images/generations")[0].bearer == work.access_token


@pytest.mark.parametrize(
    ("option", "typed", "offered"),
    [
        ("--quality", "m", ["max", "medium"]),
        ("--background", "", ["opaque", "transparent"]),
        ("--size", "102", ["1024x1024", "1024x1536"]),
    ],
)
def test_a_shell_completes_options(option, typed, offered):
    command = cli.commands["chatgpt"].get_command(None, "image")
    completer = ShellComplete(command, {}, "image", "_IMAGE_COMPLETE")
    found = completer.get_completions([option], typed)
    assert sorted(item.value for item in found) == offered


# Files -------------------------------------------------------------------------------------


def test_no_image_is_requested_if_it_could_not_be_saved(simulator, signed_in, image, tmp_path):
    (tmp_path / "old.png").write_bytes(b"old")
    message = error_of(image("A pelican", "-o", str(tmp_path / "old.png")))
    assert message.endswith("old.png already exists. Choose another name or use --force.")
    message = error_of(image("A pelican", "-o", str(tmp_path / "old.png" / "a.png")))
    assert message.startswith("Error: Could not save the image as ")
    assert message.endswith("Choose another place with -o.")
    # It would be saved as old.png.
    message = error_of(image("A pelican", "-o", str(tmp_path / "old.jpg")))
    assert message.endswith("old.png already exists. Choose another name or use --force.")
    assert image("A pelican", "-o", str(tmp_path)).exit_code == 2
    (llm.user_dir() / "chatgpt-images").touch()
    assert "in chatgpt-images in llm's folder (" in error_of(image("A pelican"))
    assert simulator.requests == []
    assert (tmp_path / "old.png").read_bytes() == b"old"


def test_a_missing_folder_below_home_is_created(simulator, signed_in, image, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    path = tmp_path / "new" / "folder" / "a.png"
    assert image("A pelican", "-o", "~/new/folder/a.png").stdout == f"{path}\n"
    assert path.read_bytes() == png(1024, 1024)


@pytest.mark.parametrize("name", ["a.jpg", "a.WEBP"])
def test_a_suffix_of_another_format_becomes_png(
    simulator, signed_in, image, run_llm, tmp_path, name
):
    result = image("A pelican", "-o", str(tmp_path / name))
    path = tmp_path / "a.png"
    assert result.stdout == f"{path}\n"
    assert f"Note: images are PNG files, so this one will be saved as {path}.\n" in result.stderr
    assert path.read_bytes() == png(1024, 1024)
    path.unlink()
    options = ["-o", "output", str(tmp_path / name)]
    assert run_llm("-m", "chatgpt-gpt-image-2", "A pelican", *options).stdout == f"{path}\n"


def test_force_replaces_a_file(simulator, signed_in, image, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    assert image("A pelican", "-o", str(path), "--force").stdout == f"{path}\n"
    assert path.read_bytes() == png(1024, 1024)
    assert list(tmp_path.glob("*.tmp")) == []


def test_an_image_on_stdout_is_not_saved(simulator, signed_in, image):
    result = image("A pelican", "-o", "-")
    assert result.stdout_bytes == png(1024, 1024)
    assert not (llm.user_dir() / "chatgpt-images").exists()
    for option in ("--json", "--open"):
        assert image("A pelican", "-o", "-", option).exit_code == 2


@needs_pty
def test_an_image_is_not_written_to_a_terminal(simulator, signed_in):
    terminal = Terminal("chatgpt", "image", "A pelican", "-o", "-")
    assert terminal.end() == 2
    assert "must not be a terminal" in terminal.screen
    assert simulator.requests == []


def test_an_image_is_saved_if_stdout_is_closed(simulator, signed_in):
    process = start_llm("chatgpt", "image", "A pelican", "-o", "-")
    process.stdout.close()
    process.stdout = None
    stderr = process.communicate(timeout=30)[1]
    (path,) = saved_images()
    assert stderr.splitlines()[-2:] == [
        "Warning: could not write the image to stdout (Broken pipe).",
        f"Picture: {path}",
    ]
    assert path.read_bytes() == png(1024, 1024)


def test_open_opens_the_image(simulator, signed_in, image, monkeypatch):
    opened = []
    monkeypatch.setattr(terminal_module, "open_address", lambda url: opened.append(url) or True)
    path = image("A pelican", "--open").stdout.strip()
    assert opened == [pathlib.Path(path).as_uri()]
    monkeypatch.setattr(terminal_module, "open_address", lambda url: False)
    assert "Could not open the image." in image("A pelican", "--open").stderr


def test_a_file_that_appears_meanwhile_is_kept(simulator, signed_in, image, tmp_path):
    path = tmp_path / "a.png"
    simulator.script("draw", lambda _: path.write_bytes(b"other") and None)
    result = image("A pelican", "-o", str(path))
    (saved,) = saved_images()
    assert result.stdout == f"{saved}\n"
    assert saved.read_bytes() == png(1024, 1024)
    assert path.read_bytes() == b"other"
    assert f"Warning: could not save the image as {path} (File exists); using" in result.stderr


def test_if_the_disk_is_full_the_default_folder_is_used(
    simulator, signed_in, image, tmp_path, monkeypatch
):
    path = tmp_path / "a.png"
    original_open = pathlib.Path.open

    def full(self, *arguments, **more):
        file = original_open(self, *arguments, **more)
        if self != path:
            return file
        file.close()
        # Writes go to a device that is always full.
        return os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb")

    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    monkeypatch.setattr(pathlib.Path, "open", full)
    result = image("A pelican", "-o", str(path))
    (saved,) = saved_images()
    assert result.stdout == f"{saved}\n"
    assert "No space left on device" in result.stderr
    assert not path.exists()


def test_an_image_that_cannot_be_saved_anywhere_is_an_error(simulator, signed_in, image):
    def spoil(_):
        folder = llm.user_dir() / "chatgpt-images"
        folder.rmdir()
        folder.touch()

    simulator.script("draw", spoil)
    assert error_of(image("A pelican")).startswith(
        "Error: Could not save the image in chatgpt-images in llm's folder ("
    )


# Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["A pelican"], ["A pelican", "-a", "-"]])
def test_a_refused_token_is_renewed_once(simulator, signed_in, image, arguments):
    simulator.access_tokens.clear()
    result = image(*arguments, input=png(16, 16))
    assert result.exit_code == 0
    assert len(simulator.refreshes) == 1
    assert result.stderr == ""
    simulator.always["draw"] = simulator.always["edit"] = lambda _: Answer(401, {"detail": "No"})
    message = error_of(image(*arguments, input=png(16, 16)))
    assert message.startswith("Error: OpenAI no longer accepts this login: No.")


FAILURES = [
    (usage_limit(), "The usage limit of your ChatGPT Plus plan is reached."),
    (Answer(429, None, {"retry-after": "20"}), "Too many requests. Wait 20 seconds and try again."),
    (Answer(500), "OpenAI server error (500). Try again in a minute."),
    (web_page(), "answered with a web page: Cloudflare or a proxy blocks this network."),
    (
        error_answer(400, "invalid_prompt", "Not allowed."),
        "OpenAI's policies refuse this prompt: Not allowed. Rephrase it.",
    ),
    (
        error_answer(400, "moderation_blocked", "The safety system rejected your request."),
        "OpenAI's policies refuse this prompt: The safety system rejected your request. Rephrase",
    ),
    (
        Answer(403, {"detail": "It says no"}),
        "It says no. Try again later, or run 'llm chatgpt login'",
    ),
    (
        error_answer(404, None, "Model not found gpt-image-9."),
        "Error: Model not found gpt-image-9. Choose another with -m.",
    ),
    (Answer(drop=True), "broke off. Check the network and try again."),
    (Answer(200, "junk"), "The service sent no image. Try again, or describe it differently."),
    (Answer(200, {"data": []}), "The service sent no image."),
    (Answer(200, {"data": [{"b64_json": 7}]}), "The service sent no image."),
    (Answer(200, {"data": [{"b64_json": "!!"}]}), "The service sent no image."),
]


@pytest.mark.parametrize(("answer", "words"), FAILURES)
def test_a_failure_is_explained_and_not_retried(simulator, signed_in, image, answer, words):
    simulator.script("draw", answer)
    assert words in error_of(image("A pelican"))
    assert len(simulator.seen("/images/generations")) == 1
    assert saved_images() == []


def test_an_option_that_the_service_refuses_is_an_error(simulator, signed_in, image):
    message = error_of(image("A pelican", "--size", "best"))
    assert message.startswith("Error: OpenAI refused the request: Invalid size 'best'.")


def test_an_image_that_takes_too_long_is_an_error(simulator, signed_in, image, monkeypatch):
    assert config.IMAGE_TIMEOUT_SECONDS == 300
    monkeypatch.setattr(config, "IMAGE_TIMEOUT_SECONDS", 0.3)
    simulator.script("draw", Answer(delay=5.0))
    message = error_of(image("A pelican"))
    assert re.search(r" did not answer (in time|within 0\.3 seconds)\. Check the network", message)
    assert len(simulator.requests) == 1


def test_an_image_may_be_larger_than_other_answers(simulator, signed_in, image):
    data = png(16, 16) + bytes(17 * 2**20)
    body = {"data": [{"b64_json": base64.b64encode(data).decode()}]}
    simulator.script("draw", Answer(200, body))
    assert image("A pelican").exit_code == 0
    (path,) = saved_images()
    assert path.stat().st_size == len(data)


def test_a_refused_login_names_its_account(simulator, signed_in, image):
    sign_in(simulator, "work")
    simulator.always["draw"] = lambda _: Answer(401, {"detail": "No"})
    message = error_of(image("A pelican", "--account", "work"))
    assert "Run 'llm chatgpt login --account work' to sign in again." in message


@pytest.mark.parametrize("account", [None, "work"])
def test_a_limit_names_banked_resets(simulator, signed_in, image, account):
    sign_in(simulator, "work")
    simulator.bank_reset()
    simulator.script("draw", usage_limit())
    option = ["--account", account] if account else []
    message = error_of(image("A pelican", *option))
    command = "llm chatgpt reset --account work" if account else "llm chatgpt reset"
    assert f"You have 1 banked reset: run '{command}'. Or wait" in message
    assert len(simulator.seen("/images/generations")) == 1


def test_an_image_model_names_banked_resets(simulator, signed_in, ask):
    simulator.bank_reset()
    simulator.reserve_used = 20.0
    simulator.script("draw", usage_limit())
    with pytest.raises(llm.ModelError) as caught:
        ask("A pelican", slug="gpt-image-2")
    assert "You have 1 banked reset: run 'llm chatgpt reset'. Or wait" in str(caught.value)
    assert "Luna Reserve" not in str(caught.value)


def test_an_unknown_quality_or_background_is_refused_before_a_request(simulator, signed_in, image):
    for option in ("--quality", "--background"):
        assert image("A pelican", option, "superb").exit_code == 2
    assert simulator.requests == []
    assert image("A pelican", "--quality", "High").exit_code == 0
    assert requested_images(simulator)[0]["quality"] == "high"


def test_without_a_login_the_error_says_so(simulator, image):
    assert "Not signed in to ChatGPT" in error_of(image("A pelican"))


def test_an_access_token_can_create_images(simulator, image, monkeypatch):
    token = "at-" + "x" * 40
    simulator.personal_tokens[token] = simulator.account
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", token)
    assert image("A pelican").exit_code == 0
    assert simulator.seen("/images/generations")[0].bearer == token


def test_the_official_sign_in_cannot_create_images(simulator, image):
    sign_in_officially(simulator)
    assert "OpenAI's official sign-in cannot create images" in error_of(image("A pelican"))
    assert simulator.requests == []


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_an_image_model_works_with_a_closed_stderr(simulator, signed_in):
    command = f"exec {sys.executable} -m llm -m chatgpt-gpt-image-2 'A pelican' 2>&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, str(saved_images()[0]))


@needs_pty
def test_a_terminal_counts_the_seconds_until_ctrl_c(simulator, signed_in):
    simulator.script("draw", Answer(delay=60.0))
    terminal = Terminal("chatgpt", "image", "A pelican", columns=30)
    # 30 columns have room for the time only.
    terminal.wait_for(r"\r0:01 \r")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 1
    assert terminal.rows == ["", "Aborted!", ""]
    assert "Traceback" not in terminal.screen
    assert saved_images() == []


@needs_pty
def test_on_a_terminal_a_missing_prompt_is_an_error(simulator, signed_in):
    terminal = Terminal("chatgpt", "image")
    assert terminal.end() == 2
    assert "Error: Missing argument 'PROMPT'." in terminal.screen
