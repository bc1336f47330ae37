"""The arguments of a training: which model, which records, and how it learns; all checked before anything is loaded."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments as TrainerArguments
from transformers.trainer_utils import IntervalStrategy

from llava.conversation import SeparatorStyle, get_conversation
from llava.utils import installed

logger = logging.getLogger(__name__)

# What decides of the Trainer's own arguments what is learnt; the others say how it is written, logged and spread.
DECIDING = (
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "max_grad_norm", "optim",
    "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "num_train_epochs", "max_steps", "per_device_train_batch_size",
    "gradient_accumulation_steps", "seed", "data_seed", "bf16", "fp16", "neftune_noise_alpha", "train_sampling_strategy",
)  # fmt: skip
ELSEWHERE = ("output_dir", "cache_dir", "eval_strategy", "remove_unused_columns", "warmup_ratio")  # of ours, likewise


@dataclass
class ModelArguments:
    """Which model is trained, and which parts of it.

    None means what the model has, or LLaVA's default for a language model without a tower. The exception is
    `mm_use_im_patch_token`, which LLaVA sets and which only adds a token that no prompt has.
    """

    model_name_or_path: str = field(metadata={"help": "language model, or a LLaVA to train further"})
    version: str = field(default="v0", metadata={"help": "prompt template: plain to pre-train, v1 to tune"})
    freeze_backbone: bool = field(default=False, metadata={"help": "freeze the decoder; projector and head learn"})
    tune_mm_mlp_adapter: bool = field(default=False, metadata={"help": "only the projector learns"})
    freeze_mm_mlp_adapter: bool = field(default=False, metadata={"help": "the projector does not learn"})
    vision_tower: str | None = field(default=None, metadata={"help": "folder or hub name of the CLIP tower"})
    mm_vision_select_layer: int | None = field(default=None, metadata={"help": "hidden state read (new: -1)"})
    mm_vision_select_feature: str | None = field(default=None, metadata={"help": "patch or cls_patch (new: patch)"})
    mm_projector_type: str | None = field(default=None, metadata={"help": "linear, mlp2x_gelu (new: linear)"})
    mm_patch_merge_type: str | None = field(default=None, metadata={"help": "flat, spatial, spatial_unpad (new: flat)"})
    mm_use_im_start_end: bool | None = field(default=None, metadata={"help": "mark images in prompts (new: no)"})
    mm_use_im_patch_token: bool | None = field(default=None, metadata={"help": "add <im_patch> (new: no)"})
    s2: bool | None = field(default=None, metadata={"help": "the tower sees pictures at several scales (new: no)"})
    s2_scales: str | None = field(default=None, metadata={"help": "pixels at each scale (new: 336,672,1008)"})
    pretrain_mm_mlp_adapter: str | None = field(default=None, metadata={"help": "mm_projector.bin to begin with"})


@dataclass
class DataArguments:
    """The data to learn from."""

    data_path: str = field(metadata={"help": "conversations, a JSON list or .jsonl"})
    image_folder: str | None = field(
        default=None, metadata={"help": "where the pictures' names begin: a folder, tar shards, or a folder of shards"}
    )
    lazy_preprocess: bool = field(default=False, metadata={"help": "tokenise a record when it is its turn"})
    is_multimodal: bool | None = field(default=None, metadata={"help": "False refuses records with pictures"})
    image_aspect_ratio: str | None = field(default=None, metadata={"help": "square, pad, anyres (new: square)"})
    skip_bad_records: bool = field(default=False, metadata={"help": "leave bad records out instead of stopping"})
    split_turns: bool = field(default=False, metadata={"help": "every question about a picture is a record of its own"})
    share_pictures: bool = field(default=False, metadata={"help": "read a picture once for all of its records"})
    cut_long_records: bool = field(default=False, metadata={"help": "cut records at model_max_length, as LLaVA does"})


@dataclass
class TrainingArguments(TrainerArguments):
    """How it is learnt: Trainer's arguments and LLaVA's. Names that transformers 5 has changed are understood as well."""

    output_dir: str | None = field(default=None, metadata={"help": "folder of the checkpoints and the trained model"})
    eval_strategy: IntervalStrategy | str = field(
        default="no", metadata={"aliases": ["--evaluation_strategy"], "help": "no; there are no records to evaluate on"}
    )
    warmup_ratio: float | None = field(default=None, metadata={"help": "share of the steps that warm up"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "batches hold only what the model reads"})
    cache_dir: str | None = field(default=None, metadata={"help": "where hub models are kept"})
    model_max_length: int = field(default=2048, metadata={"help": "positions of a record, image tokens included"})
    mm_projector_lr: float | None = field(default=None, metadata={"help": "learning rate of the projector"})
    group_by_modality_length: bool = field(default=False, metadata={"help": "steps of like length, images or text"})
    bits: int = field(default=16, metadata={"help": "4 or 8: a LoRA over quantised weights"})
    double_quant: bool = field(default=True, metadata={"help": "always, with 4 bits"})
    quant_type: str = field(default="nf4", metadata={"help": "nf4, with 4 bits"})
    lora_enable: bool = field(default=False, metadata={"help": "train a LoRA instead of the language model"})
    lora_r: int = field(default=64, metadata={"help": "rank"})
    lora_alpha: int = field(default=16, metadata={"help": "scale, divided by the rank"})
    lora_dropout: float = field(default=0.05, metadata={"help": "of the LoRA's input"})
    lora_weight_path: str = field(default="", metadata={"help": "folder of a LoRA to begin with"})
    lora_bias: str = field(default="none", metadata={"help": "none, all or lora_only"})

    def __post_init__(self) -> None:
        """Checks what can be checked without a model; ValueError or ImportError says what to do."""
        if self.output_dir is None:
            raise ValueError("output_dir is missing; give --output_dir FOLDER")
        if self.warmup_ratio is not None:
            if not 0 <= self.warmup_ratio < 1:
                raise ValueError(f"warmup_ratio={self.warmup_ratio} is no share of the steps; give 0 <= share < 1")
            self.warmup_steps = self.warmup_ratio
        if self.bits not in (4, 8, 16) or (self.bits < 16 and not self.lora_enable):
            raise ValueError(f"bits={self.bits} is not possible; give 16, or 4 or 8 with --lora_enable True")
        if self.bits == 4 and not (self.double_quant and self.quant_type == "nf4"):
            raise ValueError("bits=4 is doubly quantised nf4 only; leave --double_quant and --quant_type out")
        if self.lora_bias not in ("none", "all", "lora_only"):
            raise ValueError(f"lora_bias={self.lora_bias!r} is unknown; give none, all or lora_only")
        if self.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor={self.label_smoothing_factor} is not possible: Trainer smooths by labels that do not "
                "count the visual tokens; leave it out"
            )
        if self.deepspeed and not installed("deepspeed"):
            raise ImportError("deepspeed is not installed: pip install deepspeed, or leave --deepspeed out")
        if "wandb" in str(self.report_to) and not installed("wandb"):
            raise ImportError("wandb is not installed: pip install wandb, or leave --report_to out")
        super().__post_init__()

    @property
    def weight_dtype(self) -> torch.dtype:
        """What frozen weights are kept in; weights that learn are float32, whose small steps are not rounded away."""
        return torch.bfloat16 if self.bf16 else torch.float16 if self.fp16 else torch.float32


def asked_for(
    model_args: ModelArguments, data_args: DataArguments, args: TrainingArguments, knobs: Mapping[str, Any]
) -> dict[str, Any]:
    """All that decides what a training learns, as nested plain values: model, data, rates and steps, reduction."""
    own = [name for name in inspect.get_annotations(TrainingArguments) if name not in ELSEWHERE]
    written = args.to_dict()
    return {
        "model": asdict(model_args),
        "data": asdict(data_args),
        "training": {name: written.get(name) for name in (*own, *DECIDING)} | {"world_size": args.world_size},
        "reduction": dict(knobs),
    }


def is_plain(version: str) -> bool:
    """Whether a template holds captions without questions, so that no prompt can be written in it."""
    return get_conversation(version).sep_style is SeparatorStyle.PLAIN


def check_arguments(model_args: ModelArguments, args: TrainingArguments) -> None:
    """Refuses flags that contradict each other, before anything is loaded."""
    if is_plain(model_args.version) and not model_args.tune_mm_mlp_adapter:
        logger.warning("--version plain trains on captions without questions, which is meant for --tune_mm_mlp_adapter")
    for one, other in (
        ("tune_mm_mlp_adapter", "freeze_mm_mlp_adapter"),
        ("tune_mm_mlp_adapter", "lora_enable"),
        ("freeze_backbone", "lora_enable"),
    ):
        if getattr(model_args, one) and (getattr(model_args, other, False) or getattr(args, other, False)):
            raise ValueError(f"{one} and {other} are both set; choose one")
    if args.mm_projector_lr is not None and model_args.freeze_mm_mlp_adapter:
        raise ValueError("mm_projector_lr is given, but freeze_mm_mlp_adapter keeps the projector as it is; choose one")
    if args.lora_weight_path and not args.lora_enable:
        raise ValueError("lora_weight_path is given without a LoRA; add --lora_enable True")
    if args.n_gpu > 1:
        raise ValueError(
            f"one process sees {args.n_gpu} GPUs; start one for each with `accelerate launch -m llava.train.train ...`, "
            "or set CUDA_VISIBLE_DEVICES to one"
        )
