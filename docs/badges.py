"""Draws the badges of the README from what the code says: ``python docs/badges.py``."""

from __future__ import annotations

import re
from pathlib import Path

from llava.model.hosts import HOSTS
from llava.reduction import method_names
from llava.reduction.methods import controls
from llava.versions import NEWEST, OLDEST

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/badges"
LETTER, HEIGHT = 6.6, 20  # pixels: the width of a letter on average, and the height of a badge


def facts() -> dict[str, str]:
    """What each badge says."""
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    names = [name for name in method_names() if not (Path(controls.__file__).parent / f"{name}.py").exists()]
    said = {key: re.search(rf'{key}="(.+?)"', setup) for key in ("python_requires", "license")}
    return {
        "python": said["python_requires"][1] if said["python_requires"] else "",
        "transformers": f"{'.'.join(map(str, OLDEST))} to {'.'.join(map(str, NEWEST))}",
        "methods": str(len(names)),
        "hosts": str(len(HOSTS)),
        "licence": said["license"][1] if said["license"] else "",
    }


def badge(name: str, value: str) -> str:
    """A badge as SVG: the name on grey, the value on blue."""
    left, right = (round(LETTER * len(text) + 12) for text in (name, value))
    shown = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    texts = "".join(
        f'<text x="{x}" y="14" text-anchor="middle">{text}</text>'
        for x, text in ((left / 2, name), (left + right / 2, shown))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="{HEIGHT}" role="img" aria-label="{name}: {shown}">'
        f'<rect width="{left + right}" height="{HEIGHT}" rx="3" fill="#3f51b5"/>'
        f'<path d="M3 0h{left - 3}v{HEIGHT}H3a3 3 0 0 1-3-3V3a3 3 0 0 1 3-3z" fill="#555"/>'
        f'<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">{texts}</g></svg>\n'
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for key, fact in facts().items():
        (FOLDER / f"{key}.svg").write_text(badge(key, fact), encoding="utf-8")
