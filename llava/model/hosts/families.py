"""What is known of each family of transformers' vision-language models: where its parts are and how its tokens lie.

The engine needs no more of a family than a ``Host``. A family that is not here works through one of its own:
``reduced(model, plan, host=Host(...))``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from llava.reduction import did_you_mean

from .layout import Layout, anyres, frames, square, tiles, window_order

Arrange = Callable[[Any, Any, str, int, int], Layout]  # core, call, kind, number of the image, its tokens


@dataclass(frozen=True)
class Host:
    """A family of vision-language models.

    image_token, video_token: the placeholder's id, or the names of the config's field that has it. core: the module whose
    forward takes pixels and prompt. language_model: the decoder in it. tower: the vision tower in it. projector: the module
    that turns features into tokens one by one, None where several features make a token. arrange: how the tokens of an image
    lie. images: how the placeholders of a prompt are cut into images: "features" one for each entry of what
    get_image_features returns, "runs" one for each unbroken run, "tiles" one for each group of runs that ends with the whole
    picture. several_axes: positions have a time, a height and a width. grouped: the patches that make a token follow one
    another in the tower. order: from the tower and the grids of all images, the order of the tokens after it.
    """

    name: str
    image_token: int | tuple[str, ...] = ("image_token_id", "image_token_index")
    video_token: int | tuple[str, ...] = ("video_token_id", "video_token_index")
    core: str = "model"
    language_model: str = "language_model"
    tower: str | None = "vision_tower"
    projector: str | None = "multi_modal_projector"
    arrange: Arrange = square
    images: str = "features"
    several_axes: bool = False
    grouped: bool = False
    order: Callable[[Any, Tensor], Tensor] | None = None

    def token(self, config: Any, kind: str) -> int | None:
        """The placeholder of images or videos in a prompt; None where the model has none."""
        names = self.image_token if kind == "image" else self.video_token
        if isinstance(names, int):
            return names
        return next((token for name in names if (token := getattr(config, name, None)) is not None), None)


HOSTS: dict[str, Host] = {
    host.name: host
    for host in (
        Host("llava"),
        Host("llava_next", arrange=anyres),
        Host("llava_onevision", arrange=anyres),
        Host("qwen2_vl", tower="visual", projector=None, arrange=frames, several_axes=True, grouped=True),
        Host(
            "qwen2_5_vl", tower="visual", projector=None, arrange=frames, several_axes=True, grouped=True, order=window_order
        ),
        Host("qwen3_vl", tower="visual", projector=None, arrange=frames, several_axes=True, grouped=True),
        Host("internvl", projector=None, arrange=tiles, images="runs"),
        Host("smolvlm", language_model="text_model", tower="vision_model", projector=None, arrange=tiles, images="tiles"),
        Host("idefics3", language_model="text_model", tower="vision_model", projector=None, arrange=tiles, images="tiles"),
        Host("gemma3", projector=None),
        Host("paligemma"),
    )
}  # fmt: skip


def host_of(model: nn.Module) -> Host | None:
    """The family of a model by its config; None for a decoder alone. Raises ValueError for a family that is not known."""
    config: Any = model.config
    known = HOSTS.get(config.model_type)
    if known is not None:
        return known
    if not hasattr(config, "vision_config") and not getattr(config, "sub_configs", None):
        return None
    raise ValueError(
        f"model_type={config.model_type!r} of {type(model).__name__} is no known host{did_you_mean(config.model_type, HOSTS)};"
        f" known are {', '.join(HOSTS)}; describe another with reduced(model, plan, host=Host(...))"
    )
