"""The names of the original programs on a decoder that no method was chosen for: what their scripts call runs."""

from __future__ import annotations

import numpy as np
import torch

from tests.tiny import prompt, tiny_model


def test_every_decoder_answers_to_the_original_names():
    model = tiny_model().model
    assert model.last_gen_attention_mask is None and model.last_gen_kept_indices is None
    assert model.last_selected_positions is None and model.last_selection_metadata == {}
    for reset in ("reset_fastv", "reset_hmapv", "reset_custom_selection"):
        getattr(model, reset)()


def test_fastv_switched_on_afterwards_as_its_script_does():
    model, batch = tiny_model(), prompt((5, 24, 9))
    model.config.use_fast_v = True
    model.config.fast_v_attention_rank = 9
    model.config.fast_v_sys_length, model.config.fast_v_image_token_length = 36, 24
    model.model.reset_fastv()
    with torch.no_grad():
        model(**batch.inputs)
    decoder = model.model
    assert decoder.last_gen_attention_mask.sum() == len(decoder.last_gen_kept_indices) == 5 + 9 + 9
    assert decoder.last_selection_metadata == {"method": "avg_all_heads"} and decoder.last_selected_positions is None
    assert decoder.last_trace[0].remarks == ("fast_v_sys_length=36 but the prompt says 5, which is used",)
    decoder.reset_hmapv()
    assert decoder.last_gen_kept_indices is None


def test_custom_selection_shows_its_own_positions():
    model, batch = tiny_model(), prompt((5, 24, 9))
    model.config.use_custom_selection, model.config.custom_kept_tokens = True, 6
    with torch.no_grad():
        model(**batch.inputs)
    decoder = model.model
    assert np.array_equal(decoder.last_gen_kept_indices, decoder.last_selected_positions + 5)
    assert len(decoder.last_selected_positions) == 6 and decoder.last_gen_attention_mask is None
