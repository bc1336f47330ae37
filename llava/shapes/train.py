"""Train the embedded model from nothing: ``python -m llava.shapes.train``.

Tower, tokenizer, projector and language model, then one checkpoint in LLaVA-1.5's published layout. Every stage resumes
from the work folder, so the command can be stopped and given again; two cores need hours.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from safetensors.torch import save_file

from . import world
from .language import Phase, cache_pictures, train_language_model, train_tokenizer
from .tower import MEAN, SELECT_LAYER, STD, train_tower

logger = logging.getLogger(__name__)

TOWER_STEPS, WHOLE_PICTURES = 1700, 200
PICTURES, PICTURE_SEED = 8000, 21
# Captions and lookup questions first, then the benchmark's mix, then with the patches gone from the later layers in half
# of the steps, then all 576 patches and twelve layers, and two more before them: as trained so far the first two layers
# read all they need, and nothing that is thrown away at layer 2 would cost anything. At the end, more counting and sums.
# fmt: off
CURRICULUM = [
    #     until layers patches rate pictures questions caption open yes/no suffix shallow
    Phase( 450,  4,    144, 2.5e-3,   16,       8,     0.5,    0.5, 0.0,   0.0),
    Phase(1800,  6,    136, 1.5e-3,    8,      24,     0.08,   0.3, 0.6,   0.0,   0.0, horizon=3000),
    Phase(2800,  6,    136, 1.5e-3,    8,      24,     0.05,   0.2, 0.7,   0.0,   0.5),
    Phase(3050, 12,    576, 8.0e-4,    8,      12,     0.0,    0.2, 0.7,   0.8,   0.5),
    Phase(3400, 14,    576, 8.0e-4,    8,      12,     0.0,    0.1, 0.8,   0.8,   0.5, below=2),
    Phase(3900, 14,    576, 8.0e-4,    8,      16,     0.0,    0.1, 0.8,   0.8,   0.5, counting_share=0.4, below=2),
]
# fmt: on
TOWER_FOLDER = "clip-shapes-patch14-336"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("playground/checkpoints/llava-shapes-v1"))
    parser.add_argument("--work", type=Path, default=Path("playground/training"), help="states, features and the log")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.StreamHandler(), logging.FileHandler(options.work / "train.log")],
    )
    tower = train_tower(options.work, TOWER_STEPS, whole=WHOLE_PICTURES)
    tokenizer = train_tokenizer(options.work)
    pictures = cache_pictures(tower, options.work, PICTURES, PICTURE_SEED)
    model, projector = train_language_model(pictures, tokenizer, options.work, CURRICULUM)
    export(tower, projector, model, options.work / "tokenizer.model", options.output)
    logger.info("wrote %s", options.output)


def export(tower, projector, model, tokenizer_file: Path, folder: Path) -> None:
    """Write a LLaVA-1.5 checkpoint: float16 weights, the tower in a folder of its own beside them."""
    (folder / TOWER_FOLDER).mkdir(parents=True, exist_ok=True)
    tower.half().save_pretrained(folder / TOWER_FOLDER)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True, "size": {"shortest_edge": world.SIZE}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": world.SIZE, "width": world.SIZE},
        "do_rescale": True, "do_normalize": True, "image_mean": list(MEAN), "image_std": list(STD), "do_convert_rgb": True,
    }  # fmt: skip
    _write_json(folder / TOWER_FOLDER / "preprocessor_config.json", processor)
    weights = {f"model.mm_projector.{name}": value for name, value in projector.state_dict().items()}
    weights |= {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(
        {name: value.half().contiguous() for name, value in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    config = model.config.to_dict()
    config |= {
        "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "dtype": "float16",
        "conv_mode": "vicuna_v1",
        "image_aspect_ratio": "pad", "mm_hidden_size": tower.config.hidden_size, "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False, "mm_use_im_start_end": False, "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": SELECT_LAYER, "mm_vision_tower": TOWER_FOLDER, "use_mm_proj": True,
    }  # fmt: skip
    _write_json(folder / "config.json", config)
    _write_json(
        folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "do_sample": False}
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(
        folder / "tokenizer_config.json",
        special
        | {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "legacy": True,
            "padding_side": "right",
        },
    )
    (folder / "tokenizer.model").write_bytes(tokenizer_file.read_bytes())


def _write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
