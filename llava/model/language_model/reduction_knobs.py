"""Every knob of visual-token reduction, as fields that the configuration of any family of decoders takes up."""

# Without `from __future__ import annotations`: `strict` checks the types of fields, but not types given as strings.
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from llava.reduction import did_you_mean
from llava.reduction.checks import is_number, is_whole, shown

PREFIXES = ("fast_v_", "hmap_v_", "custom_", "condensation_")
Config = TypeVar("Config", bound=type)

METHOD_FLAGS = ("use_fast_v", "use_hmap_v", "use_token_condensation", "use_custom_selection")


# What the mixin is mixed into: a config whose fields have the names of Llama's
if TYPE_CHECKING:
    from transformers import LlamaConfig as _Family
else:
    _Family = object


def with_knobs(config: Config) -> Config:
    """A config class over ``ReductionKnobs`` whose fields are checked; a knob of another type raises ValueError, in our words."""
    kind: Any = strict(config)
    assign = kind.__setattr__

    def checked(self: Any, name: str, value: Any) -> None:
        try:
            assign(self, name, value)
        except StrictDataclassError:
            if name not in REDUCTION_KNOBS:
                raise
            raise ValueError(_must_be(name, value)) from None

    kind.__setattr__ = checked
    return kind


@dataclass(repr=False, kw_only=True)
class ReductionKnobs(_Family):
    """The fields of a configuration that say how visual tokens are reduced; mixed into a family's own, under ``with_knobs``.

    ``reduction`` is a plan in any spelling of ``llava.reduction.plan_from``; the other knobs are the documented spelling of
    one method each, switched on by its ``use_*`` flag (one flag at a time). ``*_sys_length`` and ``*_image_token_length``
    are None: where the image lies is read from the prompt. Numbers are honoured as the span of one image in a prompt that
    does not say where its images lie; where it does, ``knobs.span_override`` compares them. Where a knob takes a list there
    is one entry per stage, from shallow to deep. Unknown knobs raise a ValueError with the nearest name. Knobs may be
    changed at any time; their values are checked when a plan is made from them (``check_reduction``), so a method may
    be switched on first and be given its numbers afterwards.
    """

    # any plan
    reduction: str | list | dict | None = None

    # FastV: keep `rank` tokens from layer `agg_layer` on, by the attention of the layer before
    use_fast_v: bool = False
    fast_v_sys_length: int | None = None
    fast_v_image_token_length: int | None = None
    fast_v_attention_rank: int | float | None = None
    fast_v_agg_layer: int = 2
    fast_v_inplace: bool | None = None  # the authors' name: True is placement "drop", False is "mask"
    fast_v_placement: str = "drop"
    fast_v_token_selection_method: str = "avg_all_heads"
    fast_v_weighted_alpha: int | float | str = 0.5  # or "focus": from the strongest head's entropy
    fast_v_diversity: int | float = 0.0
    fast_v_text: str = "after"  # what "text_weighted" reads: the text after the image, or "all"

    # HiMAP: text-to-image stage, image-to-image stage, cut-off (None, 0 or the depth: none)
    use_hmap_v: bool = False
    hmap_v_sys_length: int | None = None
    hmap_v_img_length: int | None = None
    hmap_v_attn_txt_layer: int | None = None
    hmap_v_attn_txt_rank: int | float | None = None
    hmap_v_attn_img_layer: int | None = None
    hmap_v_attn_img_rank: int | float | None = None
    hmap_v_row_normalised: bool = False
    cut_off_layer: int | None = None

    # token condensation: centroids that absorb the others, at HiMAP's layers and ranks or at any number of layers
    use_token_condensation: bool = False
    condensation_strategy: str | list = "connectivity"
    condensation_num_heads: int = 8
    condensation_layers: list | None = None
    condensation_ranks: list | None = None
    condensation_cover: int | float | None = None  # fewer centroids where they cover this much of the image already

    # custom selection: centres by similarity, cosine cross-attention
    use_custom_selection: bool = False
    custom_sys_length: int | None = None
    custom_image_token_length: int | None = None
    custom_kept_tokens: int | float | list = 8
    custom_agg_layer: int | list = 2
    custom_selection_method: str | list = "fps"
    custom_temperature: int | float = 0.1
    custom_placement: str = "zero_fill"
    custom_cover: int | float | None = None  # fewer centres where they cover this much of the image already
    custom_semantic: int | float = 0.0  # how much similarity to the question counts

    def __post_init__(self, **kwargs: Any) -> None:
        check_knobs(kwargs)
        super().__post_init__(**kwargs)
        check_one_method(self)

    def check_reduction(self) -> None:
        """Refuse knobs that do not exist, values of another type, two methods at once, and FastV without its budget."""
        check_knobs(vars(self))
        check_values(self)
        check_one_method(self)
        if self.use_fast_v and self.fast_v_attention_rank is None:
            raise ValueError(
                "use_fast_v=True but fast_v_attention_rank is None; give the number (or share) of image tokens to keep"
            )


def active_flags(config: ReductionKnobs) -> list[str]:
    """The ``use_*`` flags that are on; condensation with HiMAP's layers (its documented use) counts once."""
    on = [flag for flag in METHOD_FLAGS if getattr(config, flag)]
    if "use_token_condensation" in on and "use_hmap_v" in on:
        on.remove("use_hmap_v")
    return on


REDUCTION_KNOBS = tuple(
    name
    for name in ReductionKnobs.__annotations__
    if name.startswith(PREFIXES) or name in (*METHOD_FLAGS, "reduction", "cut_off_layer")
)


def check_one_method(config: ReductionKnobs) -> None:
    """Refuse two methods at once."""
    on = active_flags(config)
    if len(on) > 1:
        raise ValueError(f"{' and '.join(on)} are both set; switch on one method, or write a plan with several stages")


def check_knobs(names: Iterable[str]) -> None:
    """Refuse names that look like a reduction knob but are not."""
    for name in names:
        if (
            name.startswith((*PREFIXES, "use_fast", "use_hmap", "use_custom", "use_token"))
            and name not in REDUCTION_KNOBS
        ):
            raise ValueError(f"knob {name!r} is unknown{did_you_mean(name, REDUCTION_KNOBS)}")


def check_values(config: ReductionKnobs) -> None:
    """Refuse a knob whose value is of another type than the config declares."""
    for name, kinds in _knob_types().items():
        value = getattr(config, name)
        if not any(_fits(value, kind) for kind in kinds):
            raise ValueError(_must_be(name, value))


def _must_be(name: str, value: object) -> str:
    allowed = " or ".join("None" if kind is NoneType else kind.__name__ for kind in _knob_types()[name])
    return f"{name}={shown(value)} must be {allowed}"


@cache
def _knob_types() -> dict[str, tuple[type, ...]]:
    declared = inspect.get_annotations(ReductionKnobs, eval_str=True)
    return {name: get_args(declared[name]) or (declared[name],) for name in REDUCTION_KNOBS}


def _fits(value: object, kind: type) -> bool:
    if kind is int:
        return is_whole(value)
    return is_number(value) if kind is float else isinstance(value, kind)
