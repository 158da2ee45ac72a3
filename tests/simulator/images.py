"""The endpoints that create and edit images outside a conversation."""

from __future__ import annotations

import base64
from typing import Any

from .checks import IMAGE_OPTIONS, check_image_options, is_part
from .png import png
from .replies import Answer, Refusal, Request, invalid
from .wham import Wham

FIELDS = {"prompt", "model", *IMAGE_OPTIONS}


class Images(Wham):
    """Creates images for signed-in users."""

    def __init__(self) -> None:
        super().__init__()
        # The size of the images, if it differs from the requested one.
        self.image_size: str | None = None
        # Whether the answer repeats the requested options, even where the image differs.
        self.image_repeats_options = True

    def serve_draw(self, request: Request) -> Answer:
        self.signed_in(request)
        return self._draw(request, FIELDS)

    def serve_edit(self, request: Request) -> Answer:
        self.signed_in(request)
        images = request.body.get("images") if request.is_json else None
        if not isinstance(images, list) or not images:
            raise _missing("images")
        for number, image in enumerate(images):
            path = f"images[{number}]"
            if not isinstance(image, dict) or set(image) != {"image_url"}:
                raise _missing(f"{path}.image_url")
            data = str(image["image_url"]).startswith("data:")
            if not data or not is_part({"type": "input_image", **image}, "user"):
                raise invalid("invalid_value", f"Invalid image data: '{path}.image_url'")
        return self._draw(request, {*FIELDS, "images"})

    def _draw(self, request: Request, fields: set[str]) -> Answer:
        body = request.body
        if not request.is_json:
            raise invalid("invalid_value", "The body must be JSON.")
        for name in ("prompt", "model"):
            if not isinstance(body.get(name), str) or not body[name]:
                raise _missing(name)
        check_image_options(body, fields)
        size_option = body.get("size", "auto")
        size = self.image_size or ("1024x1024" if size_option == "auto" else size_option)
        width, height = map(int, size.split("x"))
        image = png(width, height, body.get("background") == "transparent")
        answer: dict[str, Any] = {
            "created": int(self.clock()),
            "data": [{"b64_json": base64.b64encode(image).decode()}],
        }
        if self.image_repeats_options:
            answer |= {name: body[name] for name in IMAGE_OPTIONS if name in body}
        return Answer(200, answer)


def _missing(name: str) -> Refusal:
    message = f"Missing required parameter: '{name}'."
    return invalid("missing_required_parameter", message, param=name)
