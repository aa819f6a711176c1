"""Train the embedded models: `python -m gateway.embedded.train [specialist] [generalist] [queues]`. Needs the extra `train` (torch).

Takes about ten minutes a model on two cores. Writes `weights/` and the reference logits that the tests compare with.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nn

from gateway.embedded import bpe, chatml, corpus, weights
from gateway.embedded.tokenizer import END_OF_TEXT, IM_END, Tokenizer

WEIGHTS = Path(__file__).parent / "weights"
TOKENIZER_EXAMPLES = 30_000
POOL_EXAMPLES = 2_048
"""Examples drawn at a time, sorted by length so that batches need little padding."""
EVALUATED = 200
REFERENCE_EXAMPLES = 3

Tensors = dict[str, torch.Tensor]
Forward = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """How one model is trained."""

    config: weights.Config
    corpus: str
    steps: int
    batch: int
    rate: float
    seed: int
    evaluated: tuple[str, ...]


RECIPES: Mapping[str, Recipe] = {
    "specialist": Recipe(weights.Config(128, 3, 4, 384), "specialist", 1_200, 32, 2e-3, 11, corpus.EVALUATION_TASKS),
    "generalist": Recipe(weights.Config(192, 4, 6, 576), "generalist", 3_500, 32, 2e-3, 12, corpus.EVALUATION_TASKS),
}
QUEUES = weights.Adapter("specialist", 8, 32, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
QUEUES_STEPS, QUEUES_RATE, QUEUES_SEED = 1_000, 5e-3, 13


def initial(config: weights.Config, seed: int) -> Tensors:
    """Return fresh tensors under their Hugging Face names."""
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int, columns: int, deviation: float) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * deviation

    width, hidden, out = config.width, config.hidden, 0.02 / math.sqrt(2 * config.layers)
    tensors = {"model.embed_tokens.weight": normal(config.vocabulary, width, 0.02), "model.norm.weight": torch.ones(width)}
    for layer in range(config.layers):
        at = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj"):
            tensors[f"{at}.self_attn.{name}.weight"] = normal(width, width, width**-0.5)
        tensors[f"{at}.self_attn.o_proj.weight"] = normal(width, width, out)
        tensors[f"{at}.mlp.gate_proj.weight"] = normal(hidden, width, width**-0.5)
        tensors[f"{at}.mlp.up_proj.weight"] = normal(hidden, width, width**-0.5)
        tensors[f"{at}.mlp.down_proj.weight"] = normal(width, hidden, out)
        tensors[f"{at}.input_layernorm.weight"] = torch.ones(width)
        tensors[f"{at}.post_attention_layernorm.weight"] = torch.ones(width)
    return tensors


def hidden_states(tensors: Tensors, config: weights.Config, ids: torch.Tensor) -> torch.Tensor:
    """Return the last hidden states, (batch, length, width), of ids (batch, length) padded on the right."""
    batch, length = ids.shape
    head = config.width // config.heads
    inverse = config.rope_theta ** (-torch.arange(0, head, 2, dtype=torch.float32) / head)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * inverse[None, :]
    cos, sin = torch.cat([angles, angles], 1).cos(), torch.cat([angles, angles], 1).sin()

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(batch, length, config.heads, head).transpose(1, 2)

    def rotated(x: torch.Tensor) -> torch.Tensor:
        half = torch.cat([-x[..., head // 2 :], x[..., : head // 2]], -1)
        return x * cos + half * sin

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return nn.rms_norm(x, (config.width,), tensors[name], config.norm_eps)

    x = tensors["model.embed_tokens.weight"][ids]
    for layer in range(config.layers):
        at = f"model.layers.{layer}"
        y = norm(x, f"{at}.input_layernorm.weight")
        q, k, v = (heads(y @ tensors[f"{at}.self_attn.{name}.weight"].T) for name in ("q_proj", "k_proj", "v_proj"))
        attended = nn.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True)
        x = x + attended.transpose(1, 2).reshape(batch, length, -1) @ tensors[f"{at}.self_attn.o_proj.weight"].T
        y = norm(x, f"{at}.post_attention_layernorm.weight")
        gate, up = y @ tensors[f"{at}.mlp.gate_proj.weight"].T, y @ tensors[f"{at}.mlp.up_proj.weight"].T
        x = x + (nn.silu(gate) * up) @ tensors[f"{at}.mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight")


def logits_of(tensors: Tensors, config: weights.Config, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits, (batch, length, vocabulary)."""
    return hidden_states(tensors, config, ids) @ tensors["model.embed_tokens.weight"].T


def tokens_of(tokenizer: Tokenizer, example: corpus.Example) -> tuple[list[int], int]:
    """Return an example's ids, prompt and answer, and the length of its prompt."""
    prompt = chatml.prompt(tokenizer, example.messages(), example.tools)
    return [*prompt, *tokenizer.encode(example.answer, specials=True), IM_END], len(prompt)


def batches(tokenizer: Tokenizer, examples: Iterator[corpus.Example], size: int, seed: int) -> Iterator[Batch]:
    """Yield (ids, targets, weights), each (size, length), endlessly. Only answers have weight, long ones less of it a token."""
    generator = np.random.default_rng(seed)
    while True:
        pool = sorted((tokens_of(tokenizer, example) for example in islice(examples, POOL_EXAMPLES)), key=lambda item: len(item[0]))
        for start in generator.permutation(range(0, POOL_EXAMPLES, size)):
            chosen = pool[start : start + size]
            ids = torch.full((len(chosen), len(chosen[-1][0])), END_OF_TEXT)
            targets = torch.zeros_like(ids)
            importance = torch.zeros(ids.shape)
            for row, (tokens, prompt) in enumerate(chosen):
                ids[row, : len(tokens)] = torch.tensor(tokens)
                targets[row, prompt - 1 : len(tokens) - 1] = ids[row, prompt : len(tokens)]
                importance[row, prompt - 1 : len(tokens) - 1] = (len(tokens) - prompt) ** -0.5
            yield ids, targets, importance


def fit(trained: Tensors, forward: Forward, stream: Iterator[Batch], steps: int, rate: float, what: str) -> float:
    """Train the tensors `trained` on the stream; `forward(ids)` gives (hidden states, output matrix). Returns the last mean loss."""
    for tensor in trained.values():
        tensor.requires_grad_(True)
    matrices = [t for t in trained.values() if t.dim() == 2]
    vectors = [t for t in trained.values() if t.dim() == 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}], rate, (0.9, 0.98), fused=True
    )
    mean, began = 0.0, time.monotonic()
    for step, (ids, targets, importance) in enumerate(islice(stream, steps)):
        for group in optimiser.param_groups:
            group["lr"] = rate * min((step + 1) / 100, 0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        asked = importance > 0
        hidden, output = forward(ids)
        losses = nn.cross_entropy(hidden[asked] @ output.T, targets[asked], reduction="none")
        loss = (losses * importance[asked]).sum() / importance.sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(matrices + vectors, 1.0)
        optimiser.step()
        mean = float(loss.detach()) if step == 0 else 0.98 * mean + 0.02 * float(loss.detach())
        if step % 100 == 99:
            print(f"{what}: step {step + 1}/{steps}, loss {mean:.4f}, {time.monotonic() - began:.0f} s", flush=True)
    for tensor in trained.values():
        tensor.requires_grad_(False)
    return mean


def halved(tensors: Tensors) -> Tensors:
    """Return the tensors as they will be read back: rounded to float16."""
    return {name: tensor.detach().half().float() for name, tensor in tensors.items()}


def accuracy(tensors: Tensors, config: weights.Config, tokenizer: Tokenizer, task: str) -> float:
    """Return the share of held-out examples whose whole answer is the likeliest one, token by token."""
    right = 0
    examples = corpus.evaluation(task, EVALUATED)
    for example in examples:
        ids, prompt = tokens_of(tokenizer, example)
        best = logits_of(tensors, config, torch.tensor([ids]))[0].argmax(-1)
        right += best[prompt - 1 : -1].tolist() == ids[prompt:]
    return right / len(examples)


def save(name: str, tensors: Tensors, facts: dict[str, Any]) -> None:
    """Write a model's tensors as float16 and its facts into the card."""
    arrays: dict[str, Any] = {key: tensor.numpy().astype(np.float16) for key, tensor in tensors.items()}
    np.savez(WEIGHTS / f"{name}.npz", **arrays)
    path = WEIGHTS / "card.json"
    card = json.loads(path.read_text()) if path.exists() else {}
    card[name] = facts
    path.write_text(json.dumps(dict(sorted(card.items())), indent=1) + "\n")


def reference(path: Path, name: str, tensors: Tensors, config: weights.Config, tokenizer: Tokenizer, tasks: Sequence[str]) -> None:
    """Store the logits of a few examples, for the tests of the numpy model."""
    stored: dict[str, Any] = dict(np.load(path)) if path.exists() else {}
    for i, task in enumerate(tasks[:REFERENCE_EXAMPLES]):
        ids, _ = tokens_of(tokenizer, corpus.evaluation(task, 1)[0])
        stored[f"{name}.{i}.ids"] = np.array(ids, np.int32)
        stored[f"{name}.{i}.logits"] = logits_of(tensors, config, torch.tensor([ids]))[0].numpy()[-4:]
    np.savez_compressed(path, **stored)


def train_model(name: str, tokenizer: Tokenizer, path: Path, steps: int, further: bool) -> None:
    """Train a model, from nothing or further on from the shipped weights at half the rate, and write it."""
    recipe = RECIPES[name]
    config = recipe.config
    before = weights.card()[name] if further else {"steps": 0, "minutes": 0}
    seed = recipe.seed + before["steps"]
    tensors = {key: torch.from_numpy(array) for key, array in weights.load(name).items()} if further else initial(config, seed)
    stream = batches(tokenizer, getattr(corpus, recipe.corpus)(seed), recipe.batch, seed)
    rate = recipe.rate / 2 if further else recipe.rate
    began = time.monotonic()
    loss = fit(tensors, lambda ids: (hidden_states(tensors, config, ids), tensors["model.embed_tokens.weight"]), stream, steps, rate, name)
    tensors = halved(tensors)
    facts = {
        "config": weights.described(config),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "seed": recipe.seed,
        "steps": before["steps"] + steps,
        "steps_further": steps if further else 0,
        "examples": (before["steps"] + steps) * recipe.batch,
        "minutes": round(before["minutes"] + (time.monotonic() - began) / 60, 1),
        "loss": round(loss, 4),
        "accuracy": {task: accuracy(tensors, config, tokenizer, task) for task in recipe.evaluated},
    }
    print(json.dumps(facts))
    save(name, tensors, facts)
    reference(path, name, tensors, config, tokenizer, recipe.evaluated)


def train_queues(tokenizer: Tokenizer, path: Path) -> None:
    """Train the LoRA adapter of the specialist for the other tenant's labels and write it."""
    base = {name: torch.from_numpy(array) for name, array in weights.load(QUEUES.base).items()}
    config = weights.config_of(weights.card()[QUEUES.base])
    generator = torch.Generator().manual_seed(QUEUES_SEED)
    factors: Tensors = {}
    for name, tensor in base.items():
        stem = name.removesuffix(".weight")
        if stem.endswith(QUEUES.targets):
            factors[f"{stem}.lora_A.weight"] = torch.randn(QUEUES.rank, tensor.shape[1], generator=generator) * tensor.shape[1] ** -0.5
            factors[f"{stem}.lora_B.weight"] = torch.zeros(tensor.shape[0], QUEUES.rank)

    def merged(parts: Tensors) -> Tensors:
        return {
            name: tensor + QUEUES.scale * parts[f"{stem}.lora_B.weight"] @ parts[f"{stem}.lora_A.weight"]
            if f"{(stem := name.removesuffix('.weight'))}.lora_A.weight" in parts
            else tensor
            for name, tensor in base.items()
        }

    stream = batches(tokenizer, corpus.queues(QUEUES_SEED), 32, QUEUES_SEED)
    output = base["model.embed_tokens.weight"]
    loss = fit(
        factors, lambda ids: (hidden_states(merged(factors), config, ids), output), stream, QUEUES_STEPS, QUEUES_RATE, "specialist-queues"
    )
    factors = halved(factors)
    facts = {
        "adapter": weights.described(QUEUES),
        "parameters": sum(tensor.numel() for tensor in factors.values()),
        "seed": QUEUES_SEED,
        "steps": QUEUES_STEPS,
        "loss": round(loss, 4),
        "accuracy": {task: accuracy(merged(factors), config, tokenizer, task) for task in ("queues", "tickets")},
    }
    print(json.dumps(facts))
    save("specialist-queues", factors, facts)
    reference(path, "specialist-queues", merged(factors), config, tokenizer, ("queues",))


def train_tokenizer() -> None:
    """Learn the tokenizer on the generalist's text, which holds the specialist's, and write it."""
    examples = islice(corpus.generalist(0), TOKENIZER_EXAMPLES)
    texts = [text for example in examples for text in (example.prompt, example.answer)]
    text = bpe.definition(*bpe.learn(texts, weights.Config(1, 1, 1, 1).vocabulary))
    (WEIGHTS / "tokenizer.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Train what is named, or everything."""
    parser = argparse.ArgumentParser(prog="python -m gateway.embedded.train", description=__doc__)
    parser.add_argument("models", nargs="*", default=["tokenizer", "specialist", "generalist", "queues"])
    parser.add_argument("--steps", type=int, help="train fewer steps than the recipe says")
    parser.add_argument("--further", action="store_true", help="go on from the shipped weights at half the rate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--reference", type=Path, default=Path("tests/gateway/embedded/reference.npz"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    WEIGHTS.mkdir(exist_ok=True)
    options.reference.parent.mkdir(parents=True, exist_ok=True)
    if "tokenizer" in options.models:
        train_tokenizer()
    tokenizer = Tokenizer((WEIGHTS / "tokenizer.json").read_text(encoding="utf-8"))
    for name in options.models:
        if name in RECIPES:
            train_model(name, tokenizer, options.reference, options.steps or RECIPES[name].steps, options.further)
        elif name == "queues":
            train_queues(tokenizer, options.reference)


if __name__ == "__main__":
    main()
