"""Hugging Face's Trainer for LLaVA's stages: what is saved and resumed, and the learning rate of each part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase, Trainer
from transformers.modeling_layers import GradientCheckpointingLayer

from llava.absent import absent_names
from llava.model.builder import NON_LORA_FILE, PROJECTION, PROJECTOR_FILE
from llava.model.hosts.parts import base_of

from .arguments import TrainingArguments
from .checkpoints import last_checkpoint, reading, restore_trained, writing
from .named_weights import get_mm_adapter_state_maybe_zero_3, maybe_zero_3
from .sampler import (
    EpochSampler,
    LengthGroupedSampler,
    SetEpoch,
    get_length_grouped_indices,
    get_modality_length_grouped_indices,
    lengths_and_kinds,
)
from .shared import GROUP, shared_loss

__getattr__ = absent_names(__name__)
__all__ = [
    "LLaVATrainer",
    "LengthGroupedSampler",
    "LlavaTrainer",
    "get_length_grouped_indices",
    "get_mm_adapter_state_maybe_zero_3",
    "get_modality_length_grouped_indices",
    "maybe_zero_3",
]

LAYOUTS = ("projector", "lora", "whole")


class LlavaTrainer(Trainer):
    """Trains what requires a gradient and saves it in LLaVA's layout.

    layout: "projector" writes `mm_projector.bin` and config.json, "lora" the adapter, `non_lora_trainables.bin` and
    config.json, "whole" everything with the tokenizer; by default what fits the weights that learn. Checkpoints are in the same layout, so each of them loads as a
    model and resumes as a run (LLaVA's own of the first two kinds do not). tokenizer: saved with a whole model. args:
    `llava.train.train.TrainingArguments`. Other keywords are Trainer's.

    Modules without a trainable weight stay in evaluation mode. Raises FloatingPointError when the loss is not a number.
    """

    args: TrainingArguments
    model: nn.Module

    def __init__(self, *, tokenizer: PreTrainedTokenizerBase, layout: str | None = None, **kwargs: Any):
        if layout not in (None, *LAYOUTS):
            raise ValueError(f"layout={layout!r} is unknown; give one of {', '.join(LAYOUTS)}")
        super().__init__(**kwargs)
        self.layout = layout or layout_of(self.model)
        self.tokenizer = tokenizer
        self.frozen = frozen_modules(self.model)

    # ---------------------------------------------------------------------------------------------------------- a step

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Trainer's, with what is frozen in evaluation mode and a loss that must be a number."""
        for module in self.frozen:
            module.training = False
        wanted = args[0] if args else kwargs.get("return_outputs", False)
        if GROUP in inputs:
            # What learns is put into the model in place, so that its own parts find it as the model's forward does.
            with self.accelerator.autocast():
                outcome = shared_loss(
                    base_of(self.accelerator.unwrap_model(model)), inputs, kwargs.get("num_items_in_batch")
                )
        else:
            outcome = super().compute_loss(model, {**inputs, "skip_logits": not wanted}, *args, **kwargs)
        loss = outcome[0] if isinstance(outcome, tuple) else outcome
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}; the last good checkpoint is "
                f"{self.last_checkpoint or 'none'}. Lower --learning_rate, or train with --bf16 True "
                "instead of --fp16 True, and give the same command again: it resumes there"
            )
        return outcome

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's, the projector at a rate of its own if `mm_projector_lr` is given."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        rate = self.args.mm_projector_lr
        if is_new and rate is not None:
            trained = (self.model if model is None else model).named_parameters()
            set_rate(optimizer, [weight for name, weight in trained if _is_projection(name)], rate)
        return optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """Records in an order that depends on seed and epoch only, by kind and length if asked."""
        if self.args.train_sampling_strategy != "random":
            return super()._get_train_sampler(train_dataset)
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        lengths, has_image = lengths_and_kinds(dataset) if self.args.group_by_modality_length else ((), ())
        sampler = EpochSampler(
            len(dataset),
            self.args.seed if self.args.data_seed is None else self.args.data_seed,
            lengths=lengths,
            has_image=has_image,
            batch=self.args.train_batch_size,
            step=self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps,
        )
        self.add_callback(SetEpoch(sampler))
        return sampler

    # ----------------------------------------------------------------------------------------------------------- folders

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Trainer's; OSError names what cannot be written and the checkpoint that is whole."""
        with self._writing(f"{self.args.output_dir}/checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(*args, **kwargs)

    def save_trained(self) -> None:
        """Writes the state and the trained model into `args.output_dir`; OSError says what cannot be written."""
        with self._writing(self.args.output_dir):
            self.save_state()
            self.save_model()

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint of this run."""
        return last_checkpoint(str(self.args.output_dir))

    def _writing(self, folder: str | Path | None) -> AbstractContextManager[None]:
        return writing(str(folder), self.last_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Trainer's; ValueError for states of another training or unreadable ones."""
        with reading(f"{checkpoint}/optimizer.pt or scheduler.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Trainer's; ValueError for a state that cannot be read."""
        with reading(f"{checkpoint}/scaler.pt"):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Trainer's; ValueError for states that cannot be read."""
        with reading(f"{checkpoint}/rng_state.pth"):
            super()._load_rng_state(checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Writes the model in its layout."""
        folder = Path(str(output_dir or self.args.output_dir))
        if not self.args.should_save:
            return
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        trained = {_plain_name(name) for name, weight in model.named_parameters() if weight.requires_grad}
        tensors = state_dict or dict(model.named_parameters())
        for name in trained & set(tensors):
            if not torch.isfinite(tensors[name]).all():
                raise FloatingPointError(
                    f"{name} is no longer finite at step {self.state.global_step}, so nothing is saved; the last good "
                    f"checkpoint is {self.last_checkpoint or 'none'}. Lower --learning_rate"
                )
        folder.mkdir(parents=True, exist_ok=True)
        with _as_saved(model.config):
            if self.layout == "whole":
                super()._save(str(folder), state_dict)
                self.tokenizer.save_pretrained(folder)
                return
            model.config.save_pretrained(folder)
        # A LoRA's folder has the projector even if it did not learn, since its base may have none.
        whole = {name for name in tensors if name in trained and "lora_" not in name or _is_projection(name)}
        rest = {name: tensors[name].detach().cpu() for name in sorted(whole)}
        if self.layout == "projector":
            torch.save(rest, folder / PROJECTOR_FILE)
            return
        torch.save(rest, folder / NON_LORA_FILE)
        model.save_pretrained(str(folder), state_dict=state_dict, save_embedding_layers=False)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Fills in every trained weight of a checkpoint; one that lacks any raises ValueError."""
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        restore_trained(self.model if model is None else model, Path(resume_from_checkpoint))


LLaVATrainer = LlavaTrainer  # LLaVA's spelling


def layout_of(model: nn.Module) -> str:
    """What is saved of a model, by what learns in it: "lora" under peft, "projector" for that alone, else "whole"."""
    if hasattr(model, "peft_config"):
        return "lora"
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    return "projector" if trained and all(map(_is_projection, trained)) else "whole"


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """The modules all of whose weights are frozen.

    Except those whose training mode switches checkpointing on, and quantised ones, which bitsandbytes packs in evaluation
    mode so that no gradient passes.
    """
    return [
        module
        for module in model.modules()
        if not isinstance(module, GradientCheckpointingLayer)
        and any(True for _ in module.parameters())
        and not any(weight.requires_grad for weight in module.parameters())
        and all(weight.is_floating_point() for weight in module.parameters(recurse=False))
    ]


def set_rate(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], rate: float) -> None:
    """Moves these weights into parameter groups of their own with learning rate `rate`, decay and all else kept."""
    wanted = {id(weight) for weight in weights}
    for group in list(optimizer.param_groups):
        moved = [weight for weight in group["params"] if id(weight) in wanted]
        if moved:
            group["params"] = [weight for weight in group["params"] if id(weight) not in wanted]
            optimizer.add_param_group({**group, "params": moved, "lr": rate})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def _plain_name(name: str) -> str:
    """A weight's name in the model, without what FSDP adds."""
    return name.replace("_fsdp_wrapped_module.", "")


def _is_projection(name: str) -> bool:
    """Whether a weight belongs to the projector, however the model around it is wrapped."""
    return any(f".{part.removeprefix('model.')}" in f".{name}" for part in PROJECTION)


@contextmanager
def _as_saved(config: Any) -> Iterator[None]:
    """A config as it is to be saved: with the cache that Trainer switches off, and not quantised.

    A LoRA that was trained over quantised weights belongs to the unquantised ones: peft cannot merge it into the others.
    """
    before = dict(vars(config))
    config.use_cache = True
    vars(config).pop("quantization_config", None)
    try:
        yield
    finally:
        vars(config).update(before)
