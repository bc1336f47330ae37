"""Training of the language side along a list of phases, resumable at every 100 steps.

The first phase of the curriculum is LLaVA's own first stage, captions: after ``star`` the next word is its colour, which one
look at the star's patches answers; asked questions from the start, the model only learns which attributes the picture
holds and does not bind them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from torch import nn
from transformers import LlamaForCausalLM

from .language import WEIGHTS, build_language_model, build_projector, deepen, losses
from .lessons import Phase
from .packing import Packer, Pictures, checksum

logger = logging.getLogger(__name__)


def train_language_model(
    pictures: Pictures,
    tokenizer: sentencepiece.SentencePieceProcessor,
    folder: Path,
    phases: Sequence[Phase],
    seed: int = 5,
    stop_after: int | None = None,
    start: tuple[LlamaForCausalLM, nn.Module] | None = None,
    stage: str = "language",
) -> tuple[LlamaForCausalLM, nn.Module]:
    """Follow the phases, resuming from ``folder/{stage}.pt``, which is written every 100 steps.

    ``start`` is the language model and the projector to continue from (default: new ones); their weights change in place.
    ``stop_after`` ends the run at that step, as a kill would, with its state written. Batches depend on ``(seed, step)``
    alone. Raises ValueError when the state in the folder continues from other weights than ``start``.
    """
    torch.manual_seed(seed)
    state_file, source = folder / f"{stage}.pt", checksum(*start) if start else "new"
    state = torch.load(state_file, weights_only=True) if state_file.exists() else None
    if state and state["start"] != source:
        raise ValueError(
            f"{state_file} continues from weights {state['start']}, not {source}; give another work folder or remove it"
        )
    if start and not state:
        model, projector = start
    else:
        model = build_language_model(tokenizer.vocab_size(), state["layers"] if state else phases[0].layers)
        projector = build_projector(pictures.features.shape[-1])
    packer, done = Packer(tokenizer, seed), 0
    if state:
        model.load_state_dict(state["model"])
        projector.load_state_dict(state["projector"])
        done = state["done"]
    for number, phase in enumerate(phases):
        first = phases[number - 1].until if number else 0
        if done >= phase.until:
            continue
        torch.manual_seed(seed + number)  # of the new layers, in an unbroken run and in a resumed one
        model = deepen(model, phase.layers, phase.below)
        parameters = [*model.parameters(), *projector.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=phase.rate, betas=(0.9, 0.98), weight_decay=0.01)
        if state and state["phase"] == number:
            optimiser.load_state_dict(state["optimiser"])
        began, seen = time.monotonic(), []
        for step in range(max(done, first), phase.until):
            passed = (step - first) / ((phase.horizon or phase.until) - first)
            for group in optimiser.param_groups:
                group["lr"] = phase.rate * min((step - first + 1) / 60, 1.02 - passed)
            data = packer.batch(pictures, step, phase)
            shallow = np.random.default_rng((seed, step, 1)).random() < phase.shallow_share
            with torch.autocast("cpu", dtype=torch.bfloat16):
                parts = losses(model, projector, packer, data, shallow, phase.below)
            optimiser.zero_grad()
            sum((WEIGHTS[name] * loss for name, loss in parts.items() if name in WEIGHTS), torch.zeros(())).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            seen.append({name: value.item() for name, value in parts.items()})
            if step % 20 == 19:
                names = dict.fromkeys(name for one in seen for name in one)
                means = " ".join(f"{name} {np.mean([one[name] for one in seen if name in one]):.4f}" for name in names)
                logger.info(
                    "phase %d step %d %s %.2fs a step", number, step + 1, means, (time.monotonic() - began) / len(seen)
                )
                began, seen = time.monotonic(), []
            if step % 100 == 99 or step + 1 in (phase.until, stop_after):
                state = {
                    "model": model.state_dict(), "projector": projector.state_dict(), "optimiser": optimiser.state_dict(),
                    "layers": phase.layers, "phase": number, "done": step + 1, "start": source,
                }  # fmt: skip
                torch.save(state, state_file.with_suffix(".tmp"))
                state_file.with_suffix(".tmp").replace(state_file)
            if step + 1 == stop_after:
                return model.eval(), projector.eval()
        done = phase.until
    return model.eval(), projector.eval()
