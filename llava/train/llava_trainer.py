"""Hugging Face's Trainer for LLaVA's stages: what is saved and resumed, in which order records come, at which rate they teach."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer

from llava.model.builder import LORA_FILE, NON_LORA_FILE, PROJECTION, PROJECTOR_FILE
from llava.model.checkpoint import WEIGHT_FILES, load_tensors, read_json

logger = logging.getLogger(__name__)

LAYOUTS = ("projector", "lora", "whole")
STATE_FILE = "trainer_state.json"  # the last file of a checkpoint: one that has it is complete
ADAPTER_FILE = "adapter_model.safetensors"
SHOWN = 5  # weights that an error message names


class LlavaTrainer(Trainer):
    """Trains what requires a gradient and saves it in LLaVA's layout.

    layout: "projector" writes `mm_projector.bin` and config.json, "lora" the adapter, `non_lora_trainables.bin` and
    config.json, "whole" everything with the tokenizer. Checkpoints are in the same layout, so each of them loads as a
    model and resumes as a run (LLaVA's own of the first two kinds do not). tokenizer: saved with a whole model. args:
    `llava.train.train.TrainingArguments`. Other keywords are Trainer's.

    Modules without a trainable weight stay in evaluation mode. Raises FloatingPointError when the loss is no number.
    """

    def __init__(self, *, layout: str, tokenizer: PreTrainedTokenizerBase, **kwargs: Any):
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r} is unknown; give one of {', '.join(LAYOUTS)}")
        super().__init__(**kwargs)
        self.layout = layout
        self.tokenizer = tokenizer
        self.frozen = frozen_modules(self.model)

    # ---------------------------------------------------------------------------------------------------------- a step

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Trainer's, with what is frozen in evaluation mode and a loss that must be a number."""
        for module in self.frozen:
            module.training = False
        found = super().compute_loss(model, inputs, *args, **kwargs)
        loss = found[0] if isinstance(found, tuple) else found
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}; the last good checkpoint is "
                f"{last_checkpoint(self.args.output_dir) or 'none'}. Lower --learning_rate, or train with --bf16 True "
                "instead of --fp16 True, and give the same command again: it goes on from there"
            )
        return found

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
        dataset = self.train_dataset if train_dataset is None else train_dataset
        grouped = self.args.group_by_modality_length
        sampler = EpochSampler(
            len(dataset),
            self.args.seed if self.args.data_seed is None else self.args.data_seed,
            lengths=dataset.lengths if grouped else None,
            has_image=dataset.has_image if grouped else None,
            batch=self.args.train_batch_size,
            step=self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps,
        )
        self.add_callback(_SetEpoch(sampler))
        return sampler

    # ----------------------------------------------------------------------------------------------------------- folders

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Writes the model in its layout."""
        folder = Path(output_dir or self.args.output_dir)
        if not self.args.should_save:
            return
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        trained = {_own_name(name) for name, weight in model.named_parameters() if weight.requires_grad}
        tensors = state_dict or dict(model.named_parameters())
        for name in trained & set(tensors):
            if not torch.isfinite(tensors[name]).all():
                raise FloatingPointError(
                    f"{name} is no longer finite at step {self.state.global_step}, so nothing is saved; the last good "
                    f"checkpoint is {last_checkpoint(self.args.output_dir) or 'none'}. Lower --learning_rate"
                )
        folder.mkdir(parents=True, exist_ok=True)
        with _as_saved(model.config):
            if self.layout == "whole":
                super()._save(str(folder), state_dict)
                self.tokenizer.save_pretrained(folder)
                return
            model.config.save_pretrained(folder)
        # A LoRA's folder has the projector even if it did not learn, for its base may have none.
        beside = {name for name in tensors if name in trained and "lora_" not in name or _is_projection(name)}
        rest = {name: tensors[name].detach().cpu() for name in sorted(beside)}
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
        load_trained(self.model if model is None else model, Path(resume_from_checkpoint))


def load_trained(model: nn.Module, folder: Path) -> None:
    """Fills the trainable weights of a model from a folder that `LlavaTrainer` saved, whichever layout it has.

    Raises FileNotFoundError, or ValueError that names the trainable weights that the folder lacks or has in another shape.
    """
    if (folder / LORA_FILE).is_file():
        # peft leaves the adapter's own name ("default") out of the names it writes.
        adapter = {
            name.replace(".weight", ".default.weight"): tensor
            for name, tensor in load_tensors(folder / ADAPTER_FILE).items()
        }
        tensors = {**adapter, **load_tensors(folder / NON_LORA_FILE)}
    elif (folder / PROJECTOR_FILE).is_file():
        tensors = load_tensors(folder / PROJECTOR_FILE)
    else:
        tensors = {}
        for file in _weight_files(folder):
            tensors |= load_tensors(file)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    unfit = sorted(name for name in trained if name not in tensors or tensors[name].shape != trained[name].shape)
    if unfit:
        shown = ", ".join(unfit[:SHOWN]) + (f" and {len(unfit) - SHOWN} more" if len(unfit) > SHOWN else "")
        raise ValueError(f"{folder} has no fitting {shown}; was it saved by a run with the same model and flags?")
    model.load_state_dict({name: tensors[name] for name in trained}, strict=False)


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold a whole model's weights."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            parts = set(read_json(folder / name)["weight_map"].values()) if name.endswith(".json") else {name}
            return [folder / part for part in sorted(parts)]
    raise FileNotFoundError(f"{folder} holds no weights: none of {', '.join(WEIGHT_FILES)} is there")


def last_checkpoint(folder: str | Path) -> Path | None:
    """The newest complete `checkpoint-*` of a run; None if there is none. One that was cut short is passed over."""
    complete = [file.parent for file in Path(folder).glob(f"checkpoint-*/{STATE_FILE}")]
    numbered = [path for path in complete if path.name.removeprefix("checkpoint-").isdecimal()]
    return max(numbered, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)


@contextmanager
def _as_saved(config: Any) -> Iterator[None]:
    """A config as it is to be saved: with the cache that Trainer switches off, and not quantised.

    A LoRA that was trained over quantised weights belongs to the whole ones: peft cannot merge it into the others.
    """
    before = dict(vars(config))
    config.use_cache = True
    vars(config).pop("quantization_config", None)
    try:
        yield
    finally:
        vars(config).update(before)


# ------------------------------------------------------------------------------------------------- what is trained, and how


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """The modules all of whose weights are frozen.

    But for those whose training mode switches checkpointing on, and quantised ones, which bitsandbytes packs in evaluation
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


def _own_name(name: str) -> str:
    """A weight's name in the model, without what FSDP puts between."""
    return name.replace("_fsdp_wrapped_module.", "")


def _is_projection(name: str) -> bool:
    """Whether a weight belongs to the projector, however the model around it is wrapped."""
    return any(f".{part.removeprefix('model.')}" in f".{name}" for part in PROJECTION)


# ------------------------------------------------------------------------------------------------------------- the order


class EpochSampler(Sampler[int]):
    """Every record once an epoch, in an order that depends on seed and epoch alone: a resumed run sees the same one.

    size: how many records. lengths, has_image: of every record; given, the records of one optimizer step are all with or
    all without a picture and its batches hold records of like length, so little is padded. batch, step: records of a
    device's batch and of an optimizer step over all devices. What does not fill a step stands at the end, mixed.

    As LLaVA's group_by_modality_length; LLaVA deals the records of a step to its devices by equal sums of lengths, which pads
    each batch to the longest of the step, here they are dealt by length.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        lengths: list[int] | None = None,
        has_image: list[bool] | None = None,
        batch: int = 1,
        step: int = 1,
    ):
        self.size, self.seed, self.lengths, self.has_image = size, seed, lengths, has_image
        self.batch, self.step = batch, step
        self.epoch = 0

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's order the next iteration follows."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        if self.lengths is None:
            return iter(order)
        steps, rest = [], []
        for kind in (True, False):
            same = [index for index in order if self.has_image[index] == kind]
            full = len(same) - len(same) % self.step
            steps += [same[start : start + self.step] for start in range(0, full, self.step)]
            rest += same[full:]
        shuffled = [steps[place] for place in torch.randperm(len(steps), generator=generator).tolist()]
        return iter([index for step in [*shuffled, rest] for index in self._by_length(step, generator)])

    def _by_length(self, step: list[int], generator: torch.Generator) -> list[int]:
        """The records of a step as batches of like length, in any order but for a last one that is not full."""
        ranked = sorted(step, key=lambda index: -self.lengths[index])
        batches = [ranked[start : start + self.batch] for start in range(0, len(ranked), self.batch)]
        last = [batches.pop()] if batches and len(batches[-1]) < self.batch else []
        places = torch.randperm(len(batches), generator=generator).tolist()
        return [index for batch in [*(batches[place] for place in places), *last] for index in batch]


class _SetEpoch(TrainerCallback):
    """Tells a sampler the epoch: accelerate does not where several processes skip what a resumed run has seen."""

    def __init__(self, sampler: EpochSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sampler.set_epoch(int((state.epoch or 0) + 1e-6))
