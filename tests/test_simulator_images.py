"""The simulator's images, checked by reading them."""

from __future__ import annotations

import base64
import struct
import zlib

import pytest

from plain_requests import client, post
from simulator import PNG

REQUEST = {
    "prompt": "a pelican",
    "model": "gpt-image-2",
    "background": "opaque",
    "quality": "auto",
    "size": "auto",
}
INPUT = {"images": [{"image_url": "data:image/png;base64," + base64.b64encode(PNG).decode()}]}


def request_image(simulator, headers, endpoint="generations", **changes):
    body = {k: v for k, v in {**REQUEST, **changes}.items() if v is not None}
    return client.post(f"{simulator.base_url}/codex/images/{endpoint}", json=body, headers=headers)


def size_and_transparency(answer):
    """Return the width, the height and whether there is transparency, read from the image."""
    data = base64.b64decode(answer.json()["data"][0]["b64_json"])
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data[12:16] == b"IHDR"
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    length = struct.unpack(">I", data[33:37])[0]
    assert data[37:41] == b"IDAT"
    rows = zlib.decompress(data[41 : 41 + length])
    assert len(rows) == height * (1 + width * (4 if colour == 6 else 3))
    assert depth == 8
    return width, height, colour == 6


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (1024, 1024, False)),
        ({"size": None, "quality": None, "background": None}, (1024, 1024, False)),
        ({"size": "3840x1280", "quality": "high"}, (3840, 1280, False)),
        (
            {"size": "1024x1536", "background": "transparent", "model": "gpt-image-2.5-flare"},
            (1024, 1536, True),
        ),
        ({"model": "gpt-image-2.5-sunburst", "quality": "max"}, (1024, 1024, False)),
    ],
)
def test_an_image_has_the_requested_size_and_background(simulator, headers, changes, expected):
    answer = request_image(simulator, headers, **changes)
    assert answer.status_code == 200
    assert size_and_transparency(answer) == expected
    edited = request_image(simulator, headers, "edits", **changes, **INPUT)
    assert size_and_transparency(edited) == expected


@pytest.mark.parametrize("repeats", [True, False])
def test_an_image_can_have_another_size(simulator, headers, repeats):
    simulator.image_size = "1312x1199"
    simulator.image_repeats_options = repeats
    answer = request_image(simulator, headers, size="1664x2496")
    assert size_and_transparency(answer) == (1312, 1199, False)
    assert answer.json().get("size") == ("1664x2496" if repeats else None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": None}, "'prompt'"),
        ({"prompt": ""}, "'prompt'"),
        ({"model": None}, "'model'"),
        ({"model": "gpt-image-9"}, "Supported values are: 'gpt-image-2', 'gpt-image-2.5-flare'"),
        ({"n": 2}, "Unknown parameter: 'n'."),
        ({"output_format": "png"}, "Unknown parameter: 'output_format'."),
        ({"quality": "max"}, "'max'"),
        ({"quality": "best", "model": "gpt-image-2.5-flare"}, "'xhigh'"),
        ({"background": "red"}, "'red'"),
        ({"size": "1000x1024"}, "Invalid size"),
        ({"size": "3072x1008"}, "Invalid size"),
        ({"size": "3856x3856"}, "Invalid size"),
        ({"size": "large"}, "Invalid size"),
    ],
)
def test_wrong_options_of_an_image_are_refused(simulator, headers, changes, words):
    for endpoint, more in (("generations", {}), ("edits", INPUT)):
        answer = request_image(simulator, headers, endpoint, **changes, **more)
        assert answer.status_code == 400
        assert words in answer.text


@pytest.mark.parametrize(
    "images",
    [
        None,
        [],
        ["data:image/png;base64,QQ=="],
        [{"url": "data:image/png;base64,QQ=="}],
        [{"image_url": "https://example.com/a.png"}],
        [{"image_url": "data:application/pdf;base64,QQ=="}],
    ],
)
def test_only_an_edit_takes_images_and_needs_them(simulator, headers, images):
    assert "'images'" in request_image(simulator, headers, **INPUT).text
    answer = request_image(simulator, headers, "edits", images=images)
    assert answer.status_code == 400
    assert "images" in answer.text


@pytest.mark.parametrize("endpoint", ["generations", "edits"])
def test_image_requests_need_json_and_a_login(simulator, headers, endpoint):
    url = f"{simulator.base_url}/codex/images/{endpoint}"
    assert client.post(url, data=REQUEST, headers=headers).status_code == 400
    for name in ("Authorization", "ChatGPT-Account-ID"):
        stranger = {**headers, name: "x"}
        assert request_image(simulator, stranger, endpoint, **INPUT).status_code == 401


def test_image_generation_accepts_its_options(simulator, headers):
    tool = {
        "type": "image_generation",
        "model": "gpt-image-2",
        "size": "1024x1536",
        "quality": "low",
        "background": "transparent",
        "output_format": "webp",
    }
    assert post(simulator, headers, tools=[tool]).status_code == 200
