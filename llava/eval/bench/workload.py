"""The work that is timed: a checkpoint and a picture, or a decoder of random weights and random embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from transformers.cache_utils import DynamicCache

from llava.cli.settings import ModelSpec
from llava.constants import SHORT_ANSWER
from llava.model.engine import cache_keyword
from llava.model.language_model.himap_configuration_llama import LlamaConfig
from llava.model.language_model.reducible_family import ReducibleFamilyCausalLM
from llava.model.language_model.reducible_llama import ReducibleLlamaForCausalLM
from llava.model.vision.seen import needs_pixels
from llava.reduction import Stage, check_plan, spelled_out
from llava.reduction.cost import decoder_flops, selector_flops

from ..ask.opening import open_checkpoint
from ..ask.subject import Picture, vision_inputs

QUESTION = f"What color is the disc?\n{SHORT_ANSWER}"


@dataclass(frozen=True)
class RandomModel:
    """A Llama of random weights with a prompt of ``text`` and ``visual`` random embeddings.

    Sizes of 0 stand for ``heads`` = hidden / 64, ``kv_heads`` = heads, ``intermediate`` = 2.6875 hidden, as in Llama-2.
    """

    layers: int = 12
    hidden: int = 1024
    heads: int = 0
    kv_heads: int = 0
    intermediate: int = 0
    vocab: int = 32000
    text: int = 64
    visual: int = 576
    device: str = "cpu"
    dtype: str = "float32"

    @classmethod
    def from_text(cls, text: str, device: str = "cpu", dtype: str = "float32") -> RandomModel:
        """From sizes such as ``layers=12,hidden=1024,text=64``. Raises ValueError for other names or no whole numbers."""
        names = [field.name for field in fields(cls) if field.name not in ("device", "dtype")]
        sizes: dict[str, int] = {}
        for part in filter(None, text.split(",")):
            name, _, value = part.partition("=")
            if name not in names or name in sizes or not (value.isascii() and value.isdigit()):
                raise ValueError(
                    f"random_model: cannot read {part!r}; write {','.join(f'{known}=N' for known in names)}, any of them"
                )
            sizes[name] = int(value)
        return cls(**sizes, device=device, dtype=dtype)

    def config(self) -> LlamaConfig:
        """The model's configuration."""
        heads = self.heads or max(1, self.hidden // 64)
        return LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate or int(2.6875 * self.hidden),
            num_hidden_layers=self.layers,
            num_attention_heads=heads,
            num_key_value_heads=self.kv_heads or heads,
            max_position_embeddings=max(4096, self.text + self.visual + 256),
        )


@dataclass
class Workload:
    """A model and one prompt.

    ``encode`` runs the tower under a plan (None: no tower), ``prefill`` reads the prompt with its picture. ``flops`` counts
    the last prefill's operations, without the tower's and the tower's.
    ``limit`` runs the same layers at given numbers of rows without any code of a reduction (None where a tower comes before).
    ``about`` is what a reader of the figures must know.
    """

    model: ReducibleFamilyCausalLM
    encode: Callable[[list[Stage]], Picture] | None
    prefill: Callable[[Picture | None], Any]
    flops: Callable[[], tuple[float, float]]
    about: dict[str, Any]
    limit: Callable[[list[int]], Any] | None = None

    def counts_tower(self, plan: list[Stage]) -> bool:
        """Whether a plan is compared with the tower on both sides: it changes the tower, or reads more than its features."""
        return self.encode is not None and needs_pixels(plan)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def check(self, plan: list[Stage]) -> None:
        """Raises ValueError for a plan that the model cannot run, or that would change nothing in it."""
        check_plan(plan, self.model.config.num_hidden_layers)
        stages = spelled_out(plan, self.model.config.num_hidden_layers)
        outside = [str(stage) for stage in stages if stage.site != "layer"]
        if self.encode is None and outside:
            raise ValueError(
                f"{outside[0]} acts before the decoder, and a random model has no vision tower; give --model-path"
            )


def open_workload(source: ModelSpec | RandomModel) -> Workload:
    """Load a checkpoint, or make a random model, with its prompt."""
    return random_workload(source) if isinstance(source, RandomModel) else llava_workload(source)


def random_workload(sizes: RandomModel) -> Workload:
    """A decoder of random weights; the picture stands in the middle of the text."""
    config, dtype = sizes.config(), torch_dtype(sizes.dtype)
    torch.manual_seed(0)
    with torch.device(sizes.device):
        model = ReducibleLlamaForCausalLM(config).eval()
        model.to(dtype)  # pyright: ignore[reportArgumentType]  wrapped without its self
        length = sizes.text + sizes.visual
        embeds = torch.randn(1, length, sizes.hidden, dtype=dtype)
        visual = torch.zeros(1, length, dtype=torch.long)
    first = sizes.text // 2
    visual[:, first : first + sizes.visual] = 1

    def flops() -> tuple[float, float]:
        rows = model.model.last_rows_per_layer[:, 0].tolist()
        return decoder_flops(config, rows) + selector_flops(model.model.last_trace, [0], sizes.hidden), 0.0

    return Workload(
        model=model,
        encode=None,
        prefill=lambda _: model(inputs_embeds=embeds, visual=visual, use_cache=True, logits_to_keep=1),
        flops=flops,
        about={"model": "random", **asdict(sizes)},
        limit=lambda rows: shortened(model, embeds, rows),
    )


def shortened(model: ReducibleFamilyCausalLM, embeds: Tensor, rows: list[int]) -> Tensor:
    """Logits of a prompt's last row (1, S, D), each layer seeing only a number of first rows: transformers' own layers.

    It is the best that any reduction to these numbers could reach: the same work in the layers and in the cache, but no
    choice, no ledger, no mask.
    """
    decoder = model.model
    cache, hidden = DynamicCache(config=model.config), embeds
    cos, sin = decoder.rotary_emb(hidden, position_ids=torch.arange(hidden.shape[1], device=hidden.device)[None])
    for layer, count in zip(decoder.layers, rows, strict=True):
        hidden = hidden[:, :count]
        rope = cos[:, :count], sin[:, :count]
        hidden = layer(hidden, attention_mask=None, position_embeddings=rope, use_cache=True, **cache_keyword(cache))
    return model.lm_head(decoder.norm(hidden)[:, -1:])


def llava_workload(spec: ModelSpec) -> Workload:
    """A LLaVA checkpoint asked a question about a drawn picture, in its own template."""
    checkpoint = open_checkpoint(spec)
    subject = checkpoint.subject()
    model, image = subject.model, drawn_picture()
    ids = torch.tensor([subject.prompt_ids(QUESTION, has_picture=True)], device=model.device)
    (processed,) = subject.encode([image])

    def encode(plan: list[Stage]) -> Picture:
        return replace(processed, seen=model.encode_seen([processed.pixels], plan)[0])

    def prefill(picture: Picture | None) -> Any:
        assert picture is not None  # a checkpoint has a tower
        return model(ids, **vision_inputs([picture]), use_cache=True, logits_to_keep=1)

    def flops() -> tuple[float, float]:
        (cost,) = model.last_cost()
        return cost.total_flops - cost.tower_flops, cost.tower_flops

    return Workload(
        model=model,
        encode=encode,
        prefill=prefill,
        flops=flops,
        about={"model": str(spec.path), "template": checkpoint.conv_mode, "text": ids.shape[1] - 1},
    )


def drawn_picture(side: int = 336) -> Image.Image:
    """A disc on a gradient: a plan that follows the picture has something to follow."""
    picture = Image.linear_gradient("L").resize((side, side)).convert("RGB")
    ImageDraw.Draw(picture).ellipse((side // 4, side // 3, side // 2, 3 * side // 5), fill=(200, 30, 30))
    return picture


def torch_dtype(name: str) -> torch.dtype:
    """The number format of a name. Raises ValueError for one that torch does not have."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype={name!r} is no type of torch; give float32, bfloat16 or float16")
    return dtype
