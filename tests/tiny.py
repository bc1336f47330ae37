"""A tiny random Llama and prompts with images in it: what the engine's tests run on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llava.model.language_model.himap_configuration_llama import LlamaConfig
from llava.model.language_model.reducible_llama import ReducibleLlamaForCausalLM

WIDTH, LAYERS, VOCABULARY = 64, 6, 97


def tiny_config(**knobs) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
        **knobs,
    )


def tiny_model(kind=ReducibleLlamaForCausalLM, seed: int = 0, **knobs):
    """Weights large enough that attention is far from uniform and every logit depends on the image."""
    torch.manual_seed(seed)
    model = kind(tiny_config(**knobs)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
    return model


@dataclass
class Prompt:
    """A left-padded batch: embeddings (B, S, D), mask (B, S), image map (B, S), seeds (B,)."""

    inputs_embeds: Tensor
    attention_mask: Tensor
    visual: Tensor
    sample_seed: Tensor

    def row(self, number: int) -> Prompt:
        """One sample alone, without its padding."""
        real = self.attention_mask[number].bool()
        one = slice(number, number + 1)
        return Prompt(
            self.inputs_embeds[one][:, real],
            self.attention_mask[one][:, real],
            self.visual[one][:, real],
            self.sample_seed[one],
        )

    @property
    def inputs(self) -> dict[str, Tensor]:
        return vars(self)


def prompt(*rows: tuple[int, ...], seed: int = 1) -> Prompt:
    """A batch from the lengths of text, image, text, image, ... of each row; every image is followed by text."""
    torch.manual_seed(seed)
    longest = max(sum(row) for row in rows)
    embeddings, mask, visual = [], [], []
    for row in rows:
        numbers = [0] * (longest - sum(row))
        seen = [0] * len(numbers) + [1] * sum(row)
        for place, length in enumerate(row):
            numbers += [(place + 1) // 2 if place % 2 else 0] * length
        embeddings.append(torch.randn(longest, WIDTH))
        mask.append(seen)
        visual.append(numbers)
    return Prompt(torch.stack(embeddings), torch.tensor(mask), torch.tensor(visual), torch.arange(len(rows)) + 7)


# one image; another length, padded; two images of different lengths; no image
MIXED = ((5, 24, 9), (3, 16, 6), (4, 10, 3, 24, 5), (20,))


def generate(model, batch: Prompt, steps: int = 6, **options) -> Tensor:
    return model.generate(
        inputs_embeds=batch.inputs_embeds,
        attention_mask=batch.attention_mask,
        visual=batch.visual,
        sample_seed=batch.sample_seed,
        max_new_tokens=steps,
        do_sample=False,
        **options,
    )
