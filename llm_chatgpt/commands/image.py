"""The command `image`."""

from __future__ import annotations

import os
import pathlib
import sys
from typing import BinaryIO

import click

from llm_chatgpt.backend import images
from llm_chatgpt.commands import chatgpt, common, terminal
from llm_chatgpt.files import os_reason
from llm_chatgpt.text import notice

# The usual sizes, for completion; the service takes others, too.
SIZES = ("auto", "1024x1024", "1536x1024", "1024x1536")
QUALITIES = ("auto", "low", "medium", "high", "xhigh", "max")


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
@click.option(
    "--size",
    metavar="WIDTHxHEIGHT",
    shell_complete=lambda _, __, typed: [size for size in SIZES if size.startswith(typed)],
    help="Width and height in pixels, such as 1024x1536",
)
@click.option("--quality", type=click.Choice(QUALITIES, case_sensitive=False), help="Quality")
@click.option(
    "--background",
    type=click.Choice(["opaque", "transparent"], case_sensitive=False),
    help="Background",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="New PNG file for the image; - for stdout",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file")
@click.option("--open", "open_", is_flag=True, help="Open the image")
@common.account_option()
@common.json_option
def image(
    prompt: str | None,
    attachments: tuple[BinaryIO, ...],
    model: str,
    output: str | None,
    force: bool,
    open_: bool,
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
    to_stdout = output == "-"
    if to_stdout and (json_ or open_):
        raise click.UsageError("-o - cannot be combined with --json or --open.")
    if to_stdout and terminal.is_terminal(sys.stdout):
        raise click.UsageError("-o - writes the image to stdout, which must not be a terminal.")
    model = model.removeprefix("chatgpt-")
    # Read the images first, so that an image on stdin is not taken for the prompt.
    data_urls = [
        images.data_url(file.read(), getattr(file, "name", "stdin")) for file in attachments
    ]
    body = images.build_body(_prompt(prompt), model, options, data_urls)
    if not to_stdout:
        advice = "Choose another name or use --force."
        images.check_output(output, replace=force, if_exists=advice)
    answer = images.create_image(account, body)
    if to_stdout and _write_to_stdout(answer.image):
        return
    saved = images.save_answer(answer, body, None if to_stdout else output, replace=force)
    if open_ and not terminal.open_address(pathlib.Path(saved.path).as_uri()):
        notice("Could not open the image.")
    if to_stdout:
        notice(f"Picture: {saved.path}")
    elif json_:
        common.echo_json({**saved._asdict(), "model": model})
    else:
        click.echo(saved.path)


def _write_to_stdout(image: bytes) -> bool:
    """Write the image to stdout. Returns False after a warning if that fails."""
    try:
        sys.stdout.buffer.write(image)
        sys.stdout.buffer.flush()
    except OSError as error:
        # Otherwise Python reports the error again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        notice(f"Warning: could not write the image to stdout ({os_reason(error)}).")
        return False
    return True


def _prompt(argument: str | None) -> str:
    """Return the prompt from the argument or from stdin."""
    if argument is None and terminal.is_terminal(sys.stdin):
        raise click.UsageError("Missing argument 'PROMPT'.")
    if argument in (None, "-"):
        # A stream that was closed before the program began is None.
        stdin = sys.stdin
        argument = stdin.buffer.read().decode(stdin.encoding, "replace") if stdin else ""
    if not argument or not argument.strip():
        raise click.UsageError("The prompt is empty. Pass it as an argument or on stdin.")
    return argument
