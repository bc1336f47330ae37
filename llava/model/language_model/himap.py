"""HiMAP as a Llama model of its own, with the authors' attributes."""

from __future__ import annotations

from .knobs import Knob
from .reducible_llama import ReducibleLlamaModel


class Himap_LlamaModel(ReducibleLlamaModel):  # noqa: N801  public name fixed by the documents
    """Llama with HiMAP (https://arxiv.org/abs/2503.13108): prune by the text's attention, then by the image's own.

    The ``hmap_v_*`` knobs and ``cut_off_layer`` are attributes of the same names, and live: every prefill follows their
    current values. The two stages run in the order of their layers; from ``cut_off_layer`` on no image token is left,
    and stages at or after it do not run. The authors' code needs the image's place and ``output_attentions=True``; here
    None reads the place from the prompt and no maps are made. Raises ValueError for a layer without its rank, equal
    layers, ranks that grow with depth and a number of image tokens other than the prompt's.
    """

    use_hmap_v = Knob()
    hmap_v_sys_length = Knob()
    hmap_v_img_length = Knob()
    hmap_v_attn_txt_layer = Knob()
    hmap_v_attn_txt_rank = Knob()
    hmap_v_attn_img_layer = Knob()
    hmap_v_attn_img_rank = Knob()
    hmap_v_row_normalised = Knob()
    cut_off_layer = Knob()
