"""Pictures of the drawn world, each with a question, to begin with."""

from __future__ import annotations

from pathlib import Path

from llava.shapes.world import make_scene, render

# Seeds of pictures, and what is asked about each.
EXAMPLES = {
    2002: "What color is the heart?",
    2007: "Which shape is blue?",
    2011: "What is the background of the image?",
    2009: "What is the sum of the two numbers?",
}


def write_examples(folder: Path) -> list[tuple[Path, str]]:
    """Draw the pictures into a folder: their files and questions."""
    written = []
    for seed, question in EXAMPLES.items():
        file = folder / f"drawn-{seed}.png"
        render(make_scene(seed)).save(file)
        written.append((file, question))
    return written
