"""TextVQA without OCR hints: what the model itself reads; files and score are those of ``textvqa``."""

from __future__ import annotations

from .base import Example
from .textvqa import HINT, TextVqa


class TextVqaNoOcr(TextVqa):
    """TextVQA whose prompts leave out the line of what an OCR program read."""

    name = "textvqa_no_ocr"

    def wording(self, example: Example) -> str:
        """The prompt without its hint; LLaVA's older layout, which has it inline, begins at the question."""
        lines = [line for line in example.text.split("\n") if not line.startswith(HINT)]
        text = "\n".join(lines)
        return text[text.index("Question: ") :] if text.startswith("OCR tokens: ") else text
