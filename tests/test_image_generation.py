"""Images that a model creates within a conversation."""

from __future__ import annotations

import json
import pathlib
import re

import llm
import pytest
from llm.parts import ToolResultPart

import llm_chatgpt_oauth as plugin
from simulator import PNG, Draw, Say


def test_a_created_image_is_saved_and_its_path_printed(simulator, signed_in, run_llm, tmp_path):
    simulator.answer(Draw("A pelican on a bicycle"), Say("Here."))
    result = run_llm("-m", "chatgpt-gpt-6-luna", "draw", "-T", "ImageGeneration")
    assert result.stdout == "Here.\n"
    path = pathlib.Path(re.search(r"^Picture: (.+)$", result.stderr, re.MULTILINE)[1])
    assert path.read_bytes() == PNG
    assert path.parent == llm.user_dir() / "chatgpt-images"
    assert simulator.prompts[-1]["tools"] == [{"type": "image_generation"}]
    run_llm("-c", "again")
    history = json.dumps(simulator.prompts[-1]["input"][:-1])
    assert str(path) not in history
    assert str(tmp_path) not in history
    assert "A pelican on a bicycle" in history


def test_the_path_of_an_image_is_on_a_line_of_its_own(simulator, signed_in, run_llm):
    result = run_llm("-m", "chatgpt-gpt-6-sol", "draw", "-T", "ImageGeneration")
    assert "**Answering**" in result.stderr
    assert re.search(r"^Picture: ", result.stderr, re.MULTILINE)


def test_options_of_image_generation_are_sent(simulator, signed_in, ask):
    options = {
        "output_format": "webp",
        "size": "1024x1536",
        "quality": "low",
        "background": "transparent",
    }
    simulator.answer(Say("Here."))
    ask("draw", tools=[plugin.ImageGeneration(**options)])
    assert simulator.prompts[-1]["tools"] == [{"type": "image_generation", **options}]


def test_image_generation_takes_options_on_the_command_line(simulator, signed_in, run_llm):
    tool = 'ImageGeneration({"quality": "low", "folder": "art"})'
    run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-T", tool)
    assert simulator.prompts[-1]["tools"] == [{"type": "image_generation", "quality": "low"}]


def test_the_folder_of_images_can_be_chosen(simulator, signed_in, ask, tmp_path):
    simulator.answer(Draw("A pelican", output_format="webp"))
    tool = plugin.ImageGeneration(folder=str(tmp_path / "art"), output_format="webp")
    answered = ask("draw", tools=[tool])
    result = next(part for part in answered.parts if isinstance(part, ToolResultPart))
    path = pathlib.Path(result.output)
    assert path.parent == tmp_path / "art"
    assert path.suffix == ".webp"
    assert path.read_bytes() == PNG
    assert simulator.prompts[-1]["tools"][0]["output_format"] == "webp"


@pytest.mark.parametrize("folder", ["{file}", "{file}/art", "~nobody-at-all/art", "a\0b"])
def test_an_unusable_folder_means_the_default(simulator, signed_in, ask, tmp_path, caplog, folder):
    (tmp_path / "file").write_text("")
    tool = plugin.ImageGeneration(folder=folder.format(file=tmp_path / "file"))
    simulator.answer(Draw("A pelican"), Say("Here."))
    answered = ask("draw", tools=[tool])
    assert answered.text == "Here."
    result = next(part for part in answered.parts if isinstance(part, ToolResultPart))
    path = pathlib.Path(result.output)
    assert path.parent == llm.user_dir() / "chatgpt-images"
    assert path.read_bytes() == PNG
    warning, note = caplog.messages
    assert warning.startswith("Warning: could not save the image as ")
    assert warning.endswith("; using the default folder.")
    assert note == f"Picture: {path}"


def test_an_image_that_cannot_be_saved_does_not_stop_the_answer(simulator, signed_in, ask, caplog):
    (llm.user_dir() / "chatgpt-images").write_text("")
    simulator.answer(Draw("A pelican"), Say("Here."))
    answered = ask("draw", tools=[plugin.ImageGeneration()])
    assert answered.text == "Here."
    result = next(part for part in answered.parts if isinstance(part, ToolResultPart))
    assert result.output.startswith("Could not save the image in chatgpt-images in llm's folder (")
    assert caplog.messages == [f"Warning: {result.output}"]


def test_other_formats_are_refused(simulator, signed_in, run_llm):
    sentence = "output_format must be png, jpeg or webp."
    with pytest.raises(llm.ModelError, match=sentence):
        plugin.ImageGeneration(output_format="bmp")
    tool = 'ImageGeneration({"output_format": "bmp"})'
    result = run_llm("-m", "chatgpt-gpt-6-luna", "draw", "-T", tool)
    assert result.exit_code == 1
    assert result.stderr == f"Error: {sentence}\n"


def test_the_log_shows_no_markup(simulator, signed_in, run_llm):
    run_llm("-m", "chatgpt-gpt-6-luna", "Draw", "-T", "ImageGeneration")
    log = run_llm("logs", "-n", "1").stdout
    assert "Let the model create images." in log
    assert "``" not in log.replace("```", "")
