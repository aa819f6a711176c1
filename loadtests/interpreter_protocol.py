"""What the OpenAI format costs the interpreter: microseconds to read and splice a body, and to pass on a chunk.

    python -m loadtests.interpreter_protocol

No sockets, so the figures repeat to a few hundredths on a quiet machine. Prints JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable

from gateway.protocol.body import decode
from gateway.protocol.reply import read_reply
from gateway.protocol.stream import open_stream

ROUNDS = 15
TEXTS = (" the", " parcel", ",", "\n", ' "late"', " Straße", " 42")
"""What the chunks of a stream say, over and over."""

CHUNKS = {
    "vllm": (
        b'data: {"id":"chatcmpl-97161ee29a4e0d3e","object":"chat.completion.chunk","created":1795168569,"model":"specialist",'
        b'"choices":[{"index":0,"delta":{"content":%b},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
    ),
    "vllm_logprobs": (
        b'data: {"id":"chatcmpl-97161ee29a4e0d3e","object":"chat.completion.chunk","created":1795168569,"model":"specialist",'
        b'"choices":[{"index":0,"delta":{"content":%b},"logprobs":{"content":[{"token":"billing","logprob":-0.0003,"bytes":[98,105],'
        b'"top_logprobs":[{"token":"billing","logprob":-0.0003,"bytes":[98,105]},{"token":"sales","logprob":-9.6,"bytes":[115]}]}]},'
        b'"finish_reason":null,"token_ids":null}]}\n\n'
    ),
    "llama_server": (
        b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":%b}}],"created":1795168462,'
        b'"id":"chatcmpl-9BJ29awyCY1OEiXLeYgdFgQimxIWSps6","model":"specialist","system_fingerprint":"b11669-Debian",'
        b'"object":"chat.completion.chunk"}\n\n'
    ),
    "ollama": (
        b'data: {"id":"chatcmpl-110","object":"chat.completion.chunk","created":1795168456,"model":"specialist",'
        b'"system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":{"role":"assistant","content":%b},"finish_reason":null}]}\n\n'
    ),
}
REPLY = (
    b'{"id":"chatcmpl-83101331da1ce791","object":"chat.completion","created":1795168569,"model":"specialist","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"%b","refusal":null},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":27,"total_tokens":29,"completion_tokens":2}}' % (b"late parcel " * 80)
)


def microseconds(work: Callable[[], object], units: int) -> float:
    """Of `work`, for each of its units: the best of many rounds, each a few milliseconds long."""
    once = time.perf_counter()
    work()
    number = max(1, int(0.004 / (time.perf_counter() - once)))
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in itertools.repeat(None, number):
            work()
        best = min(best, time.perf_counter() - started)
    return round(best / number / units * 1e6, 3)


def request(size: int, separators: tuple[str, str] = (",", ":")) -> bytes:
    """A chat request of `size` bytes."""
    fields = {"model": "support", "messages": [], "temperature": 0.2, "max_tokens": 128, "stream": True}
    text = "x" * (size - len(json.dumps(fields, separators=separators)) - 70)
    fields["messages"] = [{"role": "system", "content": "You route."}, {"role": "user", "content": text}]
    return json.dumps(fields, separators=separators).encode()


def chunk_cost(template: bytes, together: int) -> float:
    """Of one chunk when so many arrive in one read."""
    reader = open_stream("chat", choices=1, strip_usage=True)
    chunks = [template % json.dumps(text, ensure_ascii=False).encode() for text in TEXTS]
    reader.feed(chunks[0])
    reader.commit()
    reader.feed(chunks[0])
    reads = [b"".join(itertools.islice(itertools.cycle(chunks), start, start + together)) for start in range(len(chunks))] * 20

    def relay() -> None:
        feed = reader.feed
        for read in reads:
            feed(read)

    return microseconds(relay, len(reads) * together)


def main() -> None:
    figures: dict[str, float] = {}
    for name, size, separators in (("1k", 1200, (",", ":")), ("32k", 32_000, (",", ":")), ("1k_spaced", 1200, (", ", ": "))):
        raw = request(size, separators)
        body = decode(raw, "chat")
        figures[f"decode_{name}"] = microseconds(lambda raw=raw: decode(raw, "chat"), 1)  # type: ignore[misc]
        figures[f"render_{name}"] = microseconds(lambda body=body: body.render("support-ft-v3", usage=True), 1)  # type: ignore[misc]
    figures["reply_1k"] = microseconds(lambda: read_reply("chat", REPLY), 1)
    for name, template in CHUNKS.items():
        figures[f"chunk_{name}"] = chunk_cost(template, 1)
        figures[f"chunk_{name}_of_16"] = chunk_cost(template, 16)
    json.dump(figures, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
