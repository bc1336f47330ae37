"""What lmms-eval reads at its entry-point group ``lmms_eval.models``."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The name of the model and its classes, which are imported when it is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    home = "llava.harness.models.llava_condense"
    return ModelManifest(
        model_id="llava_condense",
        simple_class_path=f"{home}.LlavaCondense",
        chat_class_path=f"{home}.LlavaCondenseChat",
    )
