"""Write `vectors.json`: what the `tokenizers` package makes of texts that are hard to cut. Run after the tokenizer was trained anew."""

import json
import random
from pathlib import Path

import tokenizers

from gateway.embedded import weights

TEXTS = [
    "hello  world\n\n x_y 12 ½ ² Ⅷ 一二 don't I'LL  ",
    "a\tb\r\nc",
    "日本語テスト",
    "naïve café e\u0301 ",
    "__init__ 3.14",
    "😀👍🏽 ok",
    "   ",
    "\u00a0x\u2003y",
    "<|im_end|> x <tool_call>",
    "",
]
ALPHABET = " \n_'02aeé一😀²\u0301\tsS.,!"


def main() -> None:
    reference = tokenizers.Tokenizer.from_str((weights.folder() / "tokenizer.json").read_text(encoding="utf-8"))
    rng = random.Random(1)
    texts = TEXTS + ["".join(rng.choices(ALPHABET, k=24)) for _ in range(60)]
    vectors = [[text, reference.encode(text, add_special_tokens=False).ids] for text in texts]
    Path(__file__).with_name("vectors.json").write_text(json.dumps(vectors) + "\n")


if __name__ == "__main__":
    main()
