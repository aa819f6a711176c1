"""Reading a streamed reply: the reader of each endpoint."""

from __future__ import annotations

from gateway.protocol.chunks import ChunkStream
from gateway.protocol.evidence import EvidenceReader
from gateway.protocol.reader import EVENT_BYTES_MAX, StreamReader
from gateway.protocol.typed_events import MessageStream, ResponseStream
from gateway.protocol.usage import Usage
from policies.plan import Endpoint

__all__ = ["EVENT_BYTES_MAX", "EvidenceReader", "StreamReader", "Usage", "open_stream"]


def open_stream(endpoint: Endpoint, *, choices: int, strip_usage: bool, evidence: EvidenceReader | None = None) -> StreamReader:
    """A reader for one streamed reply of `choices` choices. `strip_usage`: the usage chunk was asked for by the gateway alone,
    so it is counted and withheld. `evidence`: the backend was asked for evidence, which is read, and taken out as far as the
    client did not ask for it; responses and messages have none that can be read."""
    if endpoint == "responses":
        return ResponseStream()
    if endpoint == "messages":
        return MessageStream()
    if endpoint == "embeddings":
        raise ValueError("embeddings are never streamed")
    return ChunkStream(choices, strip_usage, evidence)
