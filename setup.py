"""Compiles the request path to C where that is asked for: docs/adr/0008-the-request-path-is-compiled.md.

`HEADGATE_COMPILE=1 pip install .` (what the container image does) and `make compile` do; without it, or without a C compiler, the same
files run as they are.
"""

from __future__ import annotations

import os

from setuptools import setup

COMPILED = [
    "gateway/exchange/executor.py",
    "gateway/exchange/failure.py",
    "gateway/exchange/features.py",
    "gateway/exchange/hedging.py",
    "gateway/exchange/keepalive.py",
    "gateway/exchange/leg.py",
    "gateway/exchange/measures.py",
    "gateway/exchange/memory.py",
    "gateway/exchange/order.py",
    "gateway/exchange/race.py",
    "gateway/exchange/recording.py",
    "gateway/exchange/snapshot.py",
    "gateway/exchange/verdicts.py",
    "gateway/link/outbox.py",
    "gateway/protocol/alignment.py",
    "gateway/protocol/asking.py",
    "gateway/protocol/body.py",
    "gateway/protocol/chunks.py",
    "gateway/protocol/evidence.py",
    "gateway/protocol/learned.py",
    "gateway/protocol/reader.py",
    "gateway/protocol/reply.py",
    "gateway/protocol/spans.py",
    "gateway/protocol/sse.py",
    "gateway/protocol/stream.py",
    "gateway/protocol/stripping.py",
    "gateway/protocol/typed_events.py",
    "gateway/server/accept.py",
    "gateway/telemetry/counters.py",
    "gateway/telemetry/trace_context.py",
    "gateway/upstream/balance.py",
    "gateway/upstream/base.py",
    "gateway/upstream/breaker.py",
    "gateway/upstream/call.py",
    "gateway/upstream/deadlines.py",
    "gateway/upstream/http.py",
    "gateway/upstream/limit.py",
    "gateway/upstream/measures.py",
    "gateway/upstream/replica.py",
    "gateway/upstream/replicas.py",
    "gateway/upstream/retry.py",
    "gateway/wire/chunked.py",
    "gateway/wire/client_connection.py",
    "gateway/wire/heads.py",
    "gateway/wire/known_head.py",
    "gateway/wire/pool.py",
    "gateway/wire/reply.py",
    "gateway/wire/request.py",
    "gateway/wire/request_reader.py",
    "gateway/wire/server.py",
    "gateway/wire/server_connection.py",
]
"""The files that a request or a chunk passes through. None of them has a `msgspec.Struct`: a compiled class takes no options."""


def extensions() -> list[object]:
    """What setuptools is to build."""
    if os.environ.get("HEADGATE_COMPILE") != "1":
        return []
    from mypyc.build import mypycify

    found = list(mypycify(COMPILED, opt_level="3", debug_level="0", group_name="gateway.request_path"))
    for extension in found:
        # Nobody replaces these functions from outside: calls among them need no indirection, and small ones may be inlined.
        extension.extra_compile_args += ["-fno-semantic-interposition", "-fvisibility=hidden"]
        extension.extra_link_args += ["-Wl,-Bsymbolic"]
    return found


setup(ext_modules=extensions())
