"""Draw docs/session.svg: a terminal session with the commands of the README.

.venv/bin/python docs/session.py

The commands run against the simulator, which gives the answers below. Its address, code and first
model are replaced, so that the image changes only if the plugin's output does.
"""

from __future__ import annotations

import html
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from simulator import Say, Simulator  # noqa: E402

SESSION = [
    ("llm chatgpt login", None),
    (
        'llm -m chatgpt-gpt-6.1-sol "Three names for a pet pelican"',
        "1. Captain Scoop\n2. Gulliver\n3. Beaky",
    ),
    ('llm -c "And one for a walrus"', "Tuskegee"),
    (
        "llm -m chatgpt-gpt-6.1-sol --schema 'name, age int' \"Invent a dog\"",
        '{"name": "Biscuit", "age": 4}',
    ),
]
REPLACED = [
    (r"http://127\.0\.0\.1:\d+", "https://auth.openai.com"),
    (r"\b[A-Z0-9]{4}-[A-Z0-9]{5}\b", "7KQX-M2PLD"),
    ("gpt-6.2-sol", "gpt-6.1-sol"),
]
COLUMNS, LINE_HEIGHT, LETTER_WIDTH, MARGIN = 80, 19, 8.4, 16


def record() -> list[str]:
    """Run the session, and return its lines. Each command begins with "$ "."""
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder, Simulator() as simulator:
        simulator.interval = "1"
        simulator.approve_after_polls = 1
        environment = {**os.environ, **simulator.environment, "LLM_USER_PATH": folder}
        for command, answer in SESSION:
            if answer is not None:
                simulator.answer(Say(answer))
            words = [sys.executable, "-m", *shlex.split(command)]
            output = subprocess.run(
                words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=True,
                text=True,
            ).stdout
            for pattern, fixed in REPLACED:
                output = re.sub(pattern, fixed, output)
            lines.append(f"$ {command}")
            for line in output.rstrip().splitlines():
                # In a pipe the plugin wraps nothing.
                lines += textwrap.wrap(line, COLUMNS) or [""]
            lines.append("")
    return lines[:-1]


def svg(lines: list[str]) -> str:
    """Draw lines of text as an SVG image."""
    width = round(COLUMNS * LETTER_WIDTH) + 2 * MARGIN
    height = len(lines) * LINE_HEIGHT + 2 * MARGIN
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">',
        "<title>A terminal session with llm and a ChatGPT login</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#1c2128"/>',
        '<g font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14" fill="#cdd9e5">',
    ]
    for number, line in enumerate(lines):
        y = MARGIN + (number + 1) * LINE_HEIGHT - 5
        bold = ' font-weight="bold" fill="#ffffff"' if line.startswith("$ ") else ""
        text = html.escape(line, quote=False)
        drawn.append(f'<text x="{MARGIN}" y="{y}" xml:space="preserve"{bold}>{text}</text>')
    return "\n".join([*drawn, "</g>", "</svg>", ""])


if __name__ == "__main__":
    (ROOT / "docs/session.svg").write_text(svg(record()), encoding="utf-8")
