"""llm chatgpt image."""

from __future__ import annotations

import sys
from typing import BinaryIO

import click

from llm_chatgpt.backend import pictures
from llm_chatgpt.commands import chatgpt, group, terminal
from llm_chatgpt.login.current import with_login
from llm_chatgpt.login.tokens import Tokens


@chatgpt.command()
@click.argument("prompt", required=False)
@click.option(
    "attachments",
    "-a",
    "--attachment",
    type=click.File("rb"),
    multiple=True,
    metavar="FILE",
    help="PNG, JPEG or WebP image to edit; - for stdin",
)
@click.option("-m", "--model", default="gpt-image-2", show_default=True, help="Image model")
@click.option("--size", help="Width and height in pixels, such as 1024x1536")
@click.option("--quality", help="Quality: low, medium or high")
@click.option("--background", help="Background: opaque or transparent")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="New file for the image")
@group.account_option()
@group.json_option
def image(
    prompt: str | None,
    attachments: tuple[BinaryIO, ...],
    model: str,
    output: str | None,
    account: str | None,
    json_: bool,
    **options: str,
) -> None:
    """Create an image, or edit images

    Prints the path of the new file. Size, quality and background are requests,
    which the service may ignore. Without a prompt, reads it from stdin.

    \b
        llm chatgpt image "A pelican riding a bicycle" -o pelican.png
        llm chatgpt image "Make it night" -a pelican.png --size 1536x1024
    """
    model = model.removeprefix("chatgpt-")
    # Before the prompt, which must not be read from an image on stdin.
    images = [
        pictures.data_url(file.read(), getattr(file, "name", "stdin")) for file in attachments
    ]
    body = pictures.build_body(_prompt(prompt), model, options, images)
    pictures.check_place(output)

    def draw(tokens: Tokens, login: str) -> pictures.Answer:
        return pictures.request_picture(tokens, login, body)

    answer: pictures.Answer = with_login(account, draw)
    saved = pictures.save_answer(answer, body, output)
    if json_:
        group.echo_json({**saved._asdict(), "model": model})
    else:
        click.echo(saved.path)


def _prompt(given: str | None) -> str:
    if given is None and terminal.is_terminal(sys.stdin):
        raise click.UsageError("Missing argument 'PROMPT'.")
    if given is None or given == "-":
        # A stream that was closed before the program began is None.
        stdin = sys.stdin
        given = stdin.buffer.read().decode(stdin.encoding, "replace") if stdin else ""
    if not given.strip():
        raise click.UsageError("The prompt is empty. Pass it as an argument or on stdin.")
    return given
