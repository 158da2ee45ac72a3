"""Assemble a text of an answer from its pieces, without citation markup."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import Any

from llm_chatgpt.values import as_list, as_mapping

# The service's markup for a citation (P156), such as U+E200 cite U+E202 turn0search0 U+E201.
# If it does not end within 1,000 characters, it is ordinary text.
_CITATION = re.compile("\ue200[^\ue201]{0,1000}\ue201")
_OPEN_CITATION = re.compile("\ue200[^\ue201]{0,1000}\\Z")


class Passage:
    """One text of a message's content, or of the summary or content of reasoning."""

    def __init__(self) -> None:
        # The pieces that have been shown.
        self.shown_pieces: list[str] = []
        # The beginning of a citation that may end in the next piece.
        self.held_back = ""
        # Joins an emoji that is split between pieces (`\ud83d`, then `\ude00`).
        self._characters = codecs.getincrementaldecoder("utf-16-le")("replace")

    def add(self, delta: str) -> str:
        """Add a piece. Returns the text that can be shown now."""
        text = self._characters.decode(delta.encode("utf-16-le", "surrogatepass"))
        text, self.held_back = self.held_back + text, ""
        if "\ue200" in text:
            if match := _OPEN_CITATION.search(text):
                self.held_back = match[0]
            text = without_citations(text.removesuffix(self.held_back))
        return text

    def rest(self, whole: str) -> str:
        """Return the end of the whole text that has not been shown yet.

        Empty if the whole text does not begin with the shown text.
        """
        shown = "".join(self.shown_pieces)
        return whole[len(shown) :] if whole.startswith(shown) else ""


def without_citations(text: str) -> str:
    """Remove the citations from a text."""
    return _CITATION.sub("", text)


def readable_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Remove citations from a part of a message, and adjust the positions of its annotations."""
    text = part.get("text")
    if not isinstance(text, str) or "\ue200" not in text:
        return part
    removed_spans = [citation.span() for citation in _CITATION.finditer(text)]

    def adjusted(name: str, value: Any) -> Any:
        if name not in ("start_index", "end_index") or not isinstance(value, int):
            return value
        return value - sum(min(value, end) - start for start, end in removed_spans if start < value)

    annotations = [
        {name: adjusted(name, value) for name, value in annotation.items()}
        for annotation in map(as_mapping, as_list(part.get("annotations")))
    ]
    return {**part, "text": without_citations(text), "annotations": annotations}
