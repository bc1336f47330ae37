"""What a prefill cost, from the records of the vision path and of the decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llava.model.multimodal_encoder.tower import VisionTower
from llava.reduction import Cost
from llava.reduction.cost import Read, decoder_flops, kv_bytes, linear_flops, selector_flops, tower_flops

from .encode import VisionRecord

if TYPE_CHECKING:
    from .modules import LlavaMetaModel


def prompt_costs(
    config: Any, decoder: LlavaMetaModel, tower: VisionTower | None, vision: VisionRecord, number_bytes: int
) -> list[Cost]:
    """One entry per prompt of the last prefill, for beams the first; ``number_bytes``: the size of a cached number."""
    visual, entered = decoder.last_visual_per_layer.T.tolist(), decoder.last_rows_per_layer.T.tolist()
    beams = len(entered) // max(len(vision.crops), 1)
    costs, crop, picture = [], 0, 0
    features, own = (0, 0) if tower is None else (tower.hidden_size, tower.config.hidden_size)
    read = Read(own, [[vision.patches]] * sum(map(sum, vision.crops)))
    for row, counts in enumerate(vision.crops):
        crops, pictures = range(crop, crop + sum(counts)), range(picture, picture + len(counts))
        crop, picture = crops.stop, pictures.stop
        first = row * beams
        seeing = projecting = 0.0
        if crops and tower is not None:
            weights = tower.family.mlp_weights(tower.config)
            seeing = tower_flops(tower.config, len(crops) * tower.passes, vision.tower_rows, tower.front, weights)
            projecting = linear_flops(decoder.mm_projector, sum(vision.projector_rows[crop] for crop in crops))
        choosing = (
            selector_flops(decoder.last_trace, [first], config.hidden_size)
            + selector_flops(vision.prompt, pictures, config.hidden_size)
            + selector_flops(vision.projected, crops, config.hidden_size, read)
            + selector_flops(vision.features, crops, features, read)
            + selector_flops(vision.tower, crops, read.width)
        )
        costs.append(
            Cost(
                visual_per_layer=visual[first],
                rows_per_layer=entered[first],
                tower_flops=seeing,
                projector_flops=projecting,
                selector_flops=choosing,
                llm_flops=decoder_flops(config, entered[first]),
                kv_bytes=kv_bytes(config, entered[first], number_bytes),
            )
        )
    return costs
