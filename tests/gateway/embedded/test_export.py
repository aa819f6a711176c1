"""The exported files, read back by hand. That real engines load them is tested in tests/engines."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.embedded import chatml, export, weights
from gateway.embedded.model import Cache, Model


def safetensors(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    body = data[8 + length :]
    return {
        name: np.frombuffer(body[slice(*facts["data_offsets"])], "<f2").reshape(facts["shape"]).astype(np.float32)
        for name, facts in header.items()
    }


@pytest.mark.parametrize("name", ["specialist", "generalist"])
def test_hugging_face_form_is_the_same_model(tmp_path: Path, name: str) -> None:
    folder = export.hugging_face(name, tmp_path)
    config = weights.config_of(weights.card()[name])
    tensors = safetensors(folder / "model.safetensors")
    ids = [1, 300, 301, 302]
    exported, shipped = Model(config, tensors), Model(config, weights.load(name))
    np.testing.assert_array_equal(exported.hidden(ids, Cache(config)), shipped.hidden(ids, Cache(config)))
    assert json.loads((folder / "tokenizer_config.json").read_text())["chat_template"] == chatml.JINJA
    written = json.loads((folder / "config.json").read_text())
    assert (written["hidden_size"], written["num_hidden_layers"]) == (config.width, config.layers)
    assert written["eos_token_id"] == json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2


def test_the_adapter_has_peft_names_and_shapes(tmp_path: Path) -> None:
    folder = export.adapter("specialist-queues", tmp_path)
    factors = safetensors(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    a = factors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"]
    b = factors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"]
    assert a.shape[0] == b.shape[1] == config["r"] == 8
    assert {name.split(".")[-3] for name in factors} == set(config["target_modules"])


class Gguf:
    """A reader of just what the writer writes."""

    def __init__(self, path: Path) -> None:
        self.data, self.at = path.read_bytes(), 0
        magic, version, tensors, facts = self.take("<4sIQQ")
        assert (magic, version) == (b"GGUF", 3)
        self.facts = {self.string(): self.value(*self.take("<I")) for _ in range(facts)}
        self.tensors = {}
        for _ in range(tensors):
            name, (dimensions,) = self.string(), self.take("<I")
            self.tensors[name] = (self.take(f"<{dimensions}Q"), *self.take("<IQ"))
        self.start = -(-self.at // 32) * 32

    def take(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return found

    def string(self) -> str:
        (length,) = self.take("<Q")
        return bytes(self.take(f"<{length}s")[0]).decode()

    def value(self, kind: int) -> Any:
        if kind == 8:
            return self.string()
        if kind == 9:
            inner, count = self.take("<IQ")
            return [self.value(inner) for _ in range(count)]
        return self.take({4: "<I", 5: "<i", 6: "<f", 7: "<?"}[kind])[0]

    def tensor(self, name: str) -> Any:
        dimensions, kind, offset = self.tensors[name]
        dtype = {0: "<f4", 1: "<f2"}[kind]
        return np.frombuffer(self.data, dtype, int(np.prod(dimensions)), self.start + offset).reshape(dimensions[::-1])


def test_gguf_holds_the_tensors_and_the_vocabulary(tmp_path: Path) -> None:
    read = Gguf(export.llama_cpp("generalist", tmp_path))
    config, tensors = weights.config_of(weights.card()["generalist"]), weights.load("generalist")
    assert read.facts["llama.embedding_length"] == config.width
    assert read.facts["tokenizer.ggml.pre"] == "smollm"
    assert len(read.facts["tokenizer.ggml.tokens"]) == len(read.facts["tokenizer.ggml.token_type"]) == 1024
    assert read.facts["tokenizer.ggml.tokens"][:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert len(read.tensors) == len(tensors)
    np.testing.assert_array_equal(read.tensor("token_embd.weight"), tensors["model.embed_tokens.weight"])
    np.testing.assert_array_equal(read.tensor("output_norm.weight"), tensors["model.norm.weight"])
    np.testing.assert_array_equal(read.tensor("blk.1.ffn_down.weight"), tensors["model.layers.1.mlp.down_proj.weight"])
    head = config.width // config.heads
    shipped, permuted = tensors["model.layers.0.self_attn.q_proj.weight"], read.tensor("blk.0.attn_q.weight")
    np.testing.assert_array_equal(permuted[0:head:2], shipped[: head // 2])
    np.testing.assert_array_equal(permuted[1:head:2], shipped[head // 2 : head])


def test_the_command_says_where_it_wrote(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gateway.embedded.export", "gguf", "specialist-queues", str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == tmp_path / "new" / "specialist-queues.gguf"
    wrong = subprocess.run([*command[:4], "nope", str(tmp_path)], capture_output=True, text=True, check=False)
    assert wrong.returncode != 0
    assert "specialist-queues" in wrong.stderr
