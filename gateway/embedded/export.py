"""Write an embedded model in the form other engines read: `python -m gateway.embedded.export hf|gguf|adapter MODEL FOLDER`.

`hf` is Hugging Face's folder (vLLM, transformers), `gguf` one file `MODEL.gguf` (llama.cpp, Ollama), `adapter` a PEFT folder that vLLM
loads beside its base model.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.embedded import chatml, gguf, weights
from gateway.embedded.tokenizer import END_OF_TEXT, IM_END, SPECIAL_TOKENS, Tokenizer


def hugging_face(name: str, folder: Path) -> Path:
    """Write a model or a merged adapter as Hugging Face's folder and return the folder."""
    config, tensors = _model(name)
    folder.mkdir(parents=True, exist_ok=True)
    _safetensors(folder / "model.safetensors", tensors)
    (folder / "tokenizer.json").write_bytes((weights.folder() / "tokenizer.json").read_bytes())
    ids = {"bos_token_id": END_OF_TEXT, "eos_token_id": IM_END, "pad_token_id": END_OF_TEXT}
    llama = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "head_dim": config.width // config.heads,
        "hidden_act": "silu",
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.context,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
    }
    _json(folder / "config.json", llama | ids)
    _json(folder / "generation_config.json", {"do_sample": False} | ids)
    tokens = {"bos_token": SPECIAL_TOKENS[END_OF_TEXT], "eos_token": SPECIAL_TOKENS[IM_END], "pad_token": SPECIAL_TOKENS[END_OF_TEXT]}
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.context,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": chatml.JINJA,
    }
    _json(folder / "tokenizer_config.json", tokenizer | tokens)
    return folder


def llama_cpp(name: str, folder: Path) -> Path:
    """Write a model or a merged adapter as a GGUF file and return the file."""
    config, tensors = _model(name)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.gguf"
    tokenizer = Tokenizer((weights.folder() / "tokenizer.json").read_text(encoding="utf-8"))
    gguf.write(path, name, config, tensors, tokenizer)
    return path


def adapter(name: str, folder: Path) -> Path:
    """Write an adapter as PEFT's folder and return the folder."""
    described = weights.adapter_of(weights.card()[name])
    folder.mkdir(parents=True, exist_ok=True)
    factors = {f"base_model.model.{key}": tensor for key, tensor in weights.load(name).items()}
    _safetensors(folder / "adapter_model.safetensors", factors)
    lora = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": described.base,
        "r": described.rank,
        "lora_alpha": described.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(described.targets),
        "inference_mode": True,
    }
    _json(folder / "adapter_config.json", lora)
    return folder


def _model(name: str) -> tuple[weights.Config, dict[str, weights.Float32]]:
    """Return a model's tensors; an adapter's are those of its base with the adapter merged in."""
    card = weights.card()
    if name not in card:
        raise SystemExit(f"There is no model {name!r}. There are: {', '.join(card)}.")
    if "adapter" not in card[name]:
        return weights.config_of(card[name]), weights.load(name)
    described = weights.adapter_of(card[name])
    config, tensors = _model(described.base)
    return config, weights.merged(tensors, described, weights.load(name))


def _safetensors(path: Path, tensors: Mapping[str, weights.Float32]) -> None:
    """Write the safetensors format: the length of a JSON header, the header, the tensors in its order, here as float16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = [tensor.astype("<f2").tobytes() for tensor in tensors.values()]
    end = 0
    for (name, tensor), piece in zip(tensors.items(), data, strict=True):
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [end, end + len(piece)]}
        end += len(piece)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(data))


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Export what is named and print where it lies."""
    parser = argparse.ArgumentParser(prog="python -m gateway.embedded.export", description=__doc__)
    parser.add_argument("form", choices=("hf", "gguf", "adapter"))
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    write = {"hf": hugging_face, "gguf": llama_cpp, "adapter": adapter}[options.form]
    print(write(options.model, options.folder))


if __name__ == "__main__":
    main()
