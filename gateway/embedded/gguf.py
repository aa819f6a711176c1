"""A model as a GGUF file (version 3), the format of llama.cpp. Written from the format's description; no package needed."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gateway.embedded import chatml
from gateway.embedded.tokenizer import END_OF_TEXT, IM_END, SPECIAL_TOKENS, TOOL_CALL, Tokenizer
from gateway.embedded.weights import Config, Float32

ALIGNMENT = 32
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_TENSOR_F32, _TENSOR_F16 = 0, 1
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4

Value = str | int | float | bool | Sequence[str] | Sequence[int]

_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(path: Path, name: str, config: Config, tensors: Mapping[str, Float32], tokenizer: Tokenizer) -> None:
    """Write the model: matrices as float16, norms as float32, the output matrix left out because it is the embedding."""
    ready = {_name(key): _arranged(key, tensor, config) for key, tensor in tensors.items()}
    facts = {**_architecture(name, config), **_vocabulary(tokenizer)}
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(ready), len(facts)))
        for key, value in facts.items():
            file.write(_string(key) + _value(value))
        offset = 0
        for key, tensor in ready.items():
            kind = _TENSOR_F32 if tensor.dtype == np.float32 else _TENSOR_F16
            dimensions = tensor.shape[::-1]
            file.write(_string(key) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset))
            offset += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        for tensor in ready.values():
            _pad(file)
            file.write(tensor.tobytes())
        _pad(file)


def _pad(file: BinaryIO) -> None:
    file.write(b"\0" * (-file.tell() % ALIGNMENT))


def _name(key: str) -> str:
    """Return llama.cpp's name of a tensor that has its Hugging Face name."""
    if key == "model.embed_tokens.weight":
        return "token_embd.weight"
    if key == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, rest = key.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest.removesuffix('.weight')]}.weight"


def _arranged(key: str, tensor: Float32, config: Config) -> np.ndarray:
    """Return a tensor as llama.cpp has it: it rotates neighbouring pairs, where Hugging Face rotates the halves of a head."""
    if tensor.ndim == 1:
        return tensor.astype("<f4")
    if "q_proj" in key or "k_proj" in key:
        rows, columns = tensor.shape
        halves = tensor.reshape(config.heads, 2, rows // config.heads // 2, columns)
        tensor = halves.swapaxes(1, 2).reshape(rows, columns)
    return tensor.astype("<f2")


def _architecture(name: str, config: Config) -> dict[str, Value]:
    return {
        "general.architecture": "llama",
        "general.name": name,
        "general.file_type": 1,
        "llama.block_count": config.layers,
        "llama.context_length": config.context,
        "llama.embedding_length": config.width,
        "llama.feed_forward_length": config.hidden,
        "llama.attention.head_count": config.heads,
        "llama.attention.head_count_kv": config.heads,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        "llama.rope.dimension_count": config.width // config.heads,
        "llama.rope.freq_base": config.rope_theta,
        "llama.vocab_size": config.vocabulary,
    }


def _vocabulary(tokenizer: Tokenizer) -> dict[str, Value]:
    tokens = sorted(tokenizer.vocabulary, key=tokenizer.vocabulary.__getitem__)
    special = [_CONTROL if id_ < TOOL_CALL else _USER_DEFINED for id_ in range(len(SPECIAL_TOKENS))]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": special + [_NORMAL] * (len(tokens) - len(special)),
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in tokenizer.merges],
        "tokenizer.ggml.bos_token_id": END_OF_TEXT,
        "tokenizer.ggml.eos_token_id": IM_END,
        "tokenizer.ggml.padding_token_id": END_OF_TEXT,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": chatml.JINJA,
    }


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", _BOOL, value)
        case int():
            return struct.pack("<II", _U32, value)
        case float():
            return struct.pack("<If", _F32, value)
        case str():
            return struct.pack("<I", _STRING) + _string(value)
    texts = [item for item in value if isinstance(item, str)]
    if texts:
        return struct.pack("<IIQ", _ARRAY, _STRING, len(texts)) + b"".join(map(_string, texts))
    return struct.pack(f"<IIQ{len(value)}i", _ARRAY, _I32, len(value), *value)
