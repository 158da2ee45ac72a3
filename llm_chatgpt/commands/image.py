"""llm chatgpt image."""

from __future__ import annotations

import base64
import contextlib
import os
import sys
import tempfile
from typing import Any, BinaryIO

import click

from llm_chatgpt.backend import pictures
from llm_chatgpt.commands import group, terminal
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.files import os_reason
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.text import notice, printable


@group.chatgpt.command()
@click.argument("prompt", required=False)
@click.option(
    "attachments",
    "-a",
    "--attachment",
    type=click.File("rb"),
    multiple=True,
    metavar="FILE",
    help="PNG, JPEG or WebP picture to change; - for stdin",
)
@click.option("-m", "--model", default="gpt-image-2", show_default=True, help="Image model")
@click.option("--size", default="auto", help="Width and height in pixels, such as 1024x1536")
@click.option("--quality", default="auto", help="Quality: low, medium or high")
@click.option("--background", default="opaque", help="Background: opaque or transparent")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="New file for the picture")
@group.account_option()
@group.json_option
def image(
    prompt: str | None,
    attachments: tuple[BinaryIO, ...],
    output: str | None,
    account: str | None,
    json_: bool,
    **options: str,
) -> None:
    """Draw a picture, or change pictures

    Prints the path of the new file. Size, quality and background are wishes, which the
    service may ignore. Without a prompt, reads it from stdin.

    \b
        llm chatgpt image "A pelican riding a bicycle" -o pelican.png
        llm chatgpt image "Make it night" -a pelican.png --size 1536x1024
    """
    # Before the prompt, which must not be read from a picture on stdin.
    images = [{"image_url": _data_url(file)} for file in attachments]
    body: dict[str, Any] = {"prompt": _prompt(prompt), **options}
    if images:
        body["images"] = images
    # A picture that cannot be saved would be paid for in vain.
    _check_place(output)

    with contextlib.ExitStack() as stack:
        started = False

        def draw(tokens: Tokens, login: str) -> bytes:
            nonlocal started
            if not started:
                started = True
                stack.enter_context(terminal.ticking("Drawing", "takes a minute or two"))
            return pictures.request_picture(tokens, login, body)

        picture: bytes = group.with_login(account, draw)
    form = pictures.read_format(picture) or pictures.Format("png")
    path = os.path.abspath(pictures.save_picture(picture, form.kind, output))
    size = f"{form.width}x{form.height}"
    if form.width and options["size"] not in ("auto", size):
        notice(f"Note: the picture is {size}, not {printable(options['size'], 40)}.")
    if json_:
        found = {"width": form.width, "height": form.height, "model": options["model"]}
        group.echo_json({"path": path, **found})
    else:
        click.echo(path)


def _prompt(given: str | None) -> str:
    if given is None and terminal.is_terminal(sys.stdin):
        raise click.UsageError("Missing argument 'PROMPT'.")
    if given is None or given == "-":
        # A stream that was closed before the program began is None.
        stdin = sys.stdin
        given = stdin.buffer.read().decode(stdin.encoding, "replace") if stdin else ""
    if not given.strip():
        raise click.UsageError("The prompt is empty. Name it as an argument.")
    # An argument may hold bytes that are no text, which JSON cannot hold.
    return given.strip().encode("utf-8", "replace").decode()


def _data_url(file: BinaryIO) -> str:
    data = file.read()
    form = pictures.read_format(data)
    if form is None:
        raise ChatGPTError(
            f"Could not send {printable(file.name, 100)}: it is not a PNG, JPEG or WebP picture. "
            "Convert it or leave it out."
        )
    return f"data:image/{form.kind};base64,{base64.b64encode(data).decode()}"


def _check_place(output: str | None) -> None:
    """Raise ChatGPTError if no new file can be written there."""
    if output and os.path.lexists(output):
        raise ChatGPTError(f"{printable(output, 200)} already exists. Choose another name.")
    try:
        folder = os.path.dirname(output) or "." if output else pictures.picture_folder()
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        where = output or "chatgpt-images in llm's folder"
        raise ChatGPTError(
            f"Could not save a picture in {printable(where, 200)} ({os_reason(error)}). "
            "Choose another place with -o."
        ) from error
