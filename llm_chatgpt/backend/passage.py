"""Assemble a text of an answer from its pieces, without citation markup."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import Any

from llm_chatgpt.values import as_list

# The service's markup for a citation (docs/protocol.md, "Stream"), such as U+E200 cite U+E202
# turn0search0 U+E201. Without an end within 1,000 characters it is text. The group is empty if the
# end may still come.
_CITATION = re.compile("\ue200[^\ue201]{0,1000}(\ue201|\\Z)")


class Passage:
    """One text of a message's content, or of the summary or content of reasoning."""

    def __init__(self) -> None:
        # The pieces that have been shown.
        self.shown: list[str] = []
        # The beginning of a citation, whose end may be in the next piece.
        self.held = ""
        # An emoji may be cut in two (`\ud83d`, then `\ude00`), and half of it cannot be shown.
        self._characters = codecs.getincrementaldecoder("utf-16-le")("replace")

    def add(self, delta: str) -> str:
        """Add a piece. Returns the text that can be shown now."""
        text = self._characters.decode(delta.encode("utf-16-le", "surrogatepass"))
        text, self.held = self.held + text, ""
        if "\ue200" not in text:
            return text
        if open_citation := next((m for m in _CITATION.finditer(text) if not m[1]), None):
            self.held = open_citation[0]
        return _CITATION.sub("", text)

    def rest(self, whole: str) -> str:
        """Return the end of the whole text that has not been shown yet.

        Empty if the shown text is not its beginning.
        """
        shown = "".join(self.shown)
        return whole[len(shown) :] if whole.startswith(shown) else ""


def without_citations(text: str) -> str:
    """Remove the citations from a whole text, as `Passage` does."""
    return _CITATION.sub(lambda citation: "" if citation[1] else citation[0], text)


def readable_part(part: Mapping[str, Any]) -> dict[str, Any]:
    """Remove citations from a message's part, and move the places of its annotations."""
    text = part.get("text")
    if not isinstance(text, str) or "\ue200" not in text:
        return dict(part)
    gaps = [citation.span() for citation in _CITATION.finditer(text) if citation[1]]

    def moved(place: Any) -> Any:
        if not isinstance(place, int):
            return place
        return place - sum(min(place, end) - start for start, end in gaps if start < place)

    annotations = [
        {k: moved(v) if k in ("start_index", "end_index") else v for k, v in annotation.items()}
        if isinstance(annotation, dict)
        else annotation
        for annotation in as_list(part.get("annotations"))
    ]
    return {**part, "text": without_citations(text), "annotations": annotations}
