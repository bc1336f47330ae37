"""What comes with the package besides its code: configurations, small checkpoints, pictures.

In a checkout they lie at the top level, where they are edited. setup.py puts what ``FILES`` names into ``llava/data`` of the
wheel, in the same order, so that ``configs/methods/fastv.yaml`` means the same wherever the package was installed from.
"""

from __future__ import annotations

import os
from pathlib import Path

EMBEDDED = "playground/checkpoints/llava-shapes-v1"  # the model that answers without a download
LEARNT_THINGS = "playground/checkpoints/llava-things-lora"
THINGS = "playground/benchmarks/things"
METHODS, PUBLISHED = "configs/methods", "configs/published"
CHECKPOINTS = (EMBEDDED, LEARNT_THINGS, "playground/checkpoints/merger-shapes-condensation")
KINDS = ("bin", "json", "md", "model", "safetensors", "yaml")  # of a checkpoint's files
# What a wheel carries, as patterns below the top level.
FILES = (
    "configs/*.yaml",
    f"{METHODS}/*.yaml",
    f"{PUBLISHED}/*.yaml",
    f"{PUBLISHED}/README.md",
    "playground/quickstart/picture.png",
    *(f"{THINGS}/{name}" for name in ("COPYING", "README.md", "scenes.json", "images/*.jpg")),
    *(f"{folder}/{depth}*.{kind}" for folder in CHECKPOINTS for depth in ("", "*/") for kind in KINDS),
)

PACKAGE = Path(__file__).parent
INSTALLED = (PACKAGE / "data").is_dir()
HOME = PACKAGE / "data" if INSTALLED else PACKAGE.parent


def shipped(path: str | Path) -> Path:
    """The path itself where it exists, else what comes with the package under this name, else the path.

    A path below ``configs`` or ``playground``, or the name of a checkpoint alone, such as ``llava-shapes-v1``.
    """
    given = Path(path)
    if given.is_absolute() or os.path.exists(given):
        return given
    parts = given.parts
    if len(parts) == 1:
        place = (HOME / EMBEDDED).with_name(parts[0])
    elif parts[0] in ("configs", "playground"):
        place = HOME / given
    else:
        return given
    return place if os.path.exists(place) else given
