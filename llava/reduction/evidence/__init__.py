"""What a reducer may look at, computed only when it asks: of the picture, of the tower, of the question, of the decoder."""

from .attention import attention_rows, layer_keys
from .base import Evidence, TowerEvidence, mixed_seed
from .decoder import DecoderEvidence
from .layer import LayerEvidence, LayerSource, Source
from .needs import SITE_GIVES, Need, Site, TextScope

__all__ = [
    "SITE_GIVES",
    "DecoderEvidence",
    "Evidence",
    "LayerEvidence",
    "LayerSource",
    "Need",
    "Site",
    "Source",
    "TextScope",
    "TowerEvidence",
    "attention_rows",
    "layer_keys",
    "mixed_seed",
]
