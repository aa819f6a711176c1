"""What the OpenAI format costs the interpreter: microseconds to read and splice a body, to pass on a chunk, to take evidence out of
it, and to score it.

    python -m loadtests.interpreter_protocol

CPU time without sockets, so the figures repeat to a few hundredths on a quiet machine. Prints JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from gateway.protocol.body import decode
from gateway.protocol.evidence import EvidenceReader
from gateway.protocol.reply import read_reply
from gateway.protocol.stream import open_stream
from gateway.protocol.stripping import NOTHING
from policies.plan import Evidence
from policies.scores import TOP_SCORES, Tally, TopScore

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
_TOP = b'{"token":"%b","logprob":-%b,"bytes":[115,97,108,101,115]}'
_TOPS = b",".join([_TOP % each for each in ((b"billing", b"0.00030048"), (b"sales", b"9.6296567"), (b"shipping", b"10.0406961"))])
_TOPS_5 = b",".join([_TOPS, _TOP % (b"account", b"11.2"), _TOP % (b"technical", b"12.34")])
_EVIDENCE = b'{"content":[{"token":"billing","logprob":-0.00030048,"bytes":[98,105,108],"top_logprobs":[' + _TOPS_5 + b"]}]}"
SCORED = {
    "vllm": CHUNKS["vllm"].replace(b'"logprobs":null', b'"logprobs":' + _EVIDENCE),
    "llama_server": CHUNKS["llama_server"].replace(b"%b}}]", b'%b},"logprobs":' + _EVIDENCE + b"}]"),
    "ollama": CHUNKS["ollama"].replace(b'"finish_reason":null}', b'"finish_reason":null,"logprobs":' + _EVIDENCE + b"}"),
}
"""Chunks with the five likeliest tokens, as a rule on margin or entropy asks for them."""
LOGPROB, TOPS = -0.00030048, [-0.00030048, -9.6296567, -10.0406961, -11.2, -12.34]

REPLY = (
    b'{"id":"chatcmpl-83101331da1ce791","object":"chat.completion","created":1795168569,"model":"specialist","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"%b","refusal":null},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":27,"total_tokens":29,"completion_tokens":2}}' % (b"late parcel " * 80)
)


def microseconds(work: Callable[[], object], units: int) -> float:
    """Of `work`, for each of its units: the best of many rounds, each a few milliseconds long."""
    once = time.process_time()
    work()
    number = max(1, int(0.004 / max(time.process_time() - once, 1e-6)))
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in itertools.repeat(None, number):
            work()
        best = min(best, time.process_time() - started)
    return round(best / number / units * 1e6, 3)


def request(size: int, separators: tuple[str, str] = (",", ":")) -> bytes:
    """A chat request of `size` bytes."""
    fields = {"model": "support", "messages": [], "temperature": 0.2, "max_tokens": 128, "stream": True}
    text = "x" * (size - len(json.dumps(fields, separators=separators)) - 70)
    fields["messages"] = [{"role": "system", "content": "You route."}, {"role": "user", "content": text}]
    return json.dumps(fields, separators=separators).encode()


def chunk_cost(template: bytes, together: int, *, keep: int | None = None, scored: frozenset[TopScore] | None = None) -> float:
    """Of one chunk when so many arrive in one read, after the commit. `keep`: of the evidence that the gateway asked for;
    `scored`: what of it is computed from every chunk."""
    evidence = None
    if keep is not None or scored is not None:
        evidence = EvidenceReader(Evidence(top=5), keep=keep, after_commit=scored is not None, wanted=scored or frozenset())
    reader = open_stream("chat", choices=1, strip_usage=True, evidence=evidence)
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


def tally_cost(**options: Any) -> float:
    """Of one token with the five likeliest."""

    def take() -> None:
        tally = Tally(**options)
        for _ in range(500):
            tally.add(LOGPROB, TOPS)

    return microseconds(take, 500)


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
    for name, template in SCORED.items():
        figures[f"chunk_{name}_evidence_passed"] = chunk_cost(template, 1)
        figures[f"chunk_{name}_evidence_stripped"] = chunk_cost(template, 1, keep=NOTHING)
        figures[f"chunk_{name}_evidence_stripped_of_16"] = chunk_cost(template, 16, keep=NOTHING)
    figures["chunk_vllm_evidence_cut_to_2"] = chunk_cost(SCORED["vllm"], 1, keep=2)
    figures["chunk_vllm_scored_mean"] = chunk_cost(SCORED["vllm"], 1, keep=NOTHING, scored=frozenset())
    figures["chunk_vllm_scored_margin"] = chunk_cost(SCORED["vllm"], 1, keep=NOTHING, scored=frozenset(("margin",)))
    figures["chunk_vllm_scored_all"] = chunk_cost(SCORED["vllm"], 1, keep=NOTHING, scored=TOP_SCORES)
    figures["tally"] = tally_cost()
    figures["tally_margin"] = tally_cost(wanted=frozenset(("margin",)))
    figures["tally_logits"] = tally_cost(logits=True)
    json.dump(figures, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
