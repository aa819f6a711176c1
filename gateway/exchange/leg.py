"""One call of an exchange, seen from the client's side: what its reply has brought, how much of it the policy wants to see
before it judges, and, once it is the answer, straight on to the client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from gateway.protocol.errors import read_error, read_error_names
from gateway.protocol.evidence import EvidenceReader, read_evidence
from gateway.protocol.reply import ReplyFacts, read_reply
from gateway.protocol.stream import StreamReader, open_stream
from gateway.upstream.base import UpstreamCall
from policies.plan import HOLD_ALL, Call, CallError, Evidence, Outcome
from policies.scores import UNAVAILABLE, Scores

if TYPE_CHECKING:
    from gateway.exchange.executor import Exchange
    from gateway.exchange.snapshot import Target

REPLY_BYTES_MAX: Final = 64 * 1024 * 1024
"""A whole (not streamed) reply, and what is held of a streamed one."""

_NO_HEADERS: Final[dict[bytes, bytes]] = {}

REQUEST_FAULTS: Final = frozenset({400, 405, 409, 411, 413, 414, 415, 416, 422, 431})
"""Statuses by which a backend refuses the request itself: another one would say the same."""


@final
class Leg:
    """Hears one call's reply (`gateway.upstream.base.ReplyReceiver`)."""

    __slots__ = (
        "_chunks",
        "_exchange",
        "_hold_tokens",
        "_pass_on",
        "_size",
        "_timer",
        "call",
        "committed",
        "content_at",
        "ended_at",
        "error",
        "evidence",
        "facts",
        "head_at",
        "headers",
        "hold",
        "index",
        "judged_at",
        "reader",
        "scores",
        "span_id",
        "started_at",
        "status",
        "target",
    )

    call: UpstreamCall
    scores: Scores
    """What it was judged by, where evidence is read."""
    _hold_tokens: int
    _pass_on: Callable[[bytes], None]

    def __init__(self, exchange: Exchange, index: int, target: Target, verb: Call, span_id: str, now: float) -> None:
        self.index = index
        self.target = target
        self.hold = verb.hold
        self.evidence = verb.evidence
        """What is to be read of it; None: nothing."""
        if self.evidence is not None:
            self.scores = UNAVAILABLE
            self._hold_tokens = self.hold.tokens
            if exchange.body.choices > 1:
                self.hold = HOLD_ALL  # the worst choice decides, and each is judged by its first tokens
        self.span_id = span_id
        self.started_at = now
        self.head_at: float | None = None
        self.content_at: float | None = None
        self.judged_at: float | None = None
        self.ended_at: float | None = None
        self.status: int | None = None
        self.headers = _NO_HEADERS
        """Of an error."""
        self.error: CallError | None = None
        self.reader: StreamReader | None = None
        self.facts: ReplyFacts | None = None
        self.committed = False
        self._exchange = exchange
        self._chunks: list[bytes] = []
        self._size = 0
        self._timer: object | None = None

    # What the upstream tells.

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        exchange = self._exchange
        self.head_at = exchange.now()
        self.status = status
        if status != 200:
            self.headers = headers
        body = exchange.body
        if body.stream and status == 200 and headers.get(b"content-type", b"").lower().startswith(b"text/event-stream"):
            self.reader = open_stream(
                body.endpoint,
                choices=body.choices,
                strip_usage=exchange.strip_usage,
                evidence=None if self.evidence is None else self._evidence_reader(self.evidence),
            )

    def on_body(self, data: bytes) -> None:
        reader = self.reader
        if reader is None:
            self._keep(data)
        elif self.committed:
            # The path of every chunk: nothing here may cost more than it must.
            out = reader.feed(data)
            if out:
                self._pass_on(out)
            if reader.failed:
                self._break_off(reader)
        else:
            self._keep(reader.feed(data))
            if reader.failed:
                self._break_off(reader)
            elif self.judged_at is None and self.error is None:
                self._consider(reader)

    def on_end(self) -> None:
        self.ended_at = self._exchange.now()
        if self.reader is None:
            self._end_whole()
        else:
            self._end_stream(self.reader)

    def on_failure(self, error: CallError) -> None:
        self.ended_at = self._exchange.now()
        if self.whole:
            assert self.reader is not None
            self._end_stream(self.reader)
        else:
            self._fail(error)

    @property
    def whole(self) -> bool:
        """Of a stream nothing is missing, though its backend may not have ended it yet: whatever happens now, it is an answer."""
        return self.reader is not None and self.reader.whole

    # What it makes of that.

    def _keep(self, data: bytes) -> None:
        if not data:
            return
        self._size += len(data)
        if self._size > REPLY_BYTES_MAX:
            self._fault(CallError("too_large", f"the reply is larger than {REPLY_BYTES_MAX} bytes"))
        else:
            self._chunks.append(data)

    def _consider(self, reader: StreamReader) -> None:
        """Resume the policy if what it wanted to see has arrived."""
        if not reader.content_seen:
            return
        if self.content_at is None:
            self.content_at = self._exchange.now()
            self.call.content_seen()
        hold = self.hold
        if hold.all:
            return
        if not hold.tokens or reader.tokens >= hold.tokens:
            self._judge(complete=False)
        elif self._timer is None and hold.for_ms and reader.tokens:
            self._timer = self._exchange.call_later(hold.for_ms / 1000, self._hold_is_over)

    def _hold_is_over(self) -> None:
        if self.judged_at is None and self.ended_at is None:
            self._judge(complete=False)

    def _judge(self, *, complete: bool) -> None:
        if self.judged_at is None:
            exchange = self._exchange
            # A reply is judged in the same breath as its end: one look at the clock is enough.
            self.judged_at = exchange.now() if self.ended_at is None else self.ended_at
            if self.evidence is None:
                exchange.resume(Outcome(self.index, self.target.backend.name, self.error, complete))
                return
            if self.reader is not None:
                self.scores = self.reader.scores()
            exchange.resume(Outcome(self.index, self.target.backend.name, self.error, complete, self.scores))

    def _end_whole(self) -> None:
        """A reply that is not a stream has arrived whole: is it what it should be?"""
        assert self.status is not None
        body = self.whole_body()
        if self.status != 200:
            self._fail(self._status_error(self.status, body))
            return
        if self.content_at is None:
            self.content_at = self.head_at
        asked = self._exchange.body
        if self.evidence is not None:
            # First, since what was asked for and is not JSON (NaN) must not make the reply none.
            self.scores, body = read_evidence(
                asked.endpoint, body, self.evidence, hold_tokens=self._hold_tokens, keep=asked.keeps_logprobs(self.evidence)
            )
            self._chunks = [body]
        self.facts = read_reply(asked.endpoint, body)
        problem = self.facts.problem
        if problem is None and asked.stream:
            problem = "a whole reply came where a stream was asked for"  # in which a client's reader would find no event
        if problem is not None:
            self._fault(CallError("protocol", problem))
        else:
            self._judge(complete=True)

    def _evidence_reader(self, evidence: Evidence) -> EvidenceReader:
        return EvidenceReader(evidence, hold_tokens=self._hold_tokens, keep=self._exchange.body.keeps_logprobs(evidence))

    def _end_stream(self, reader: StreamReader) -> None:
        tail = reader.end()
        if not reader.whole:
            self._break_off(reader)
        elif self.committed:
            self._exchange.answer_ended(self, tail)
        else:
            self._keep(tail)
            self._judge(complete=True)

    def _status_error(self, status: int, body: bytes) -> CallError:
        if status in REQUEST_FAULTS:
            param, code = read_error_names(body)
            message = read_error(body) or f"answered {status}"
            return CallError("status", message, status, request_at_fault=True, param=param, code=code)
        retry_after = self.headers.get(b"retry-after", b"")
        return CallError(
            "status",
            f"answered {status}: {read_error(body)}",
            status,
            float(retry_after) if retry_after.isdigit() and len(retry_after) < 7 else None,
        )

    def _break_off(self, reader: StreamReader) -> None:
        """The stream carried an error, was not SSE, or ended before it was whole."""
        if reader.error is not None:
            self._fault(CallError("error_event", reader.error or "an error without a message"))
        elif reader.broken is not None:
            self._fault(CallError("protocol", reader.broken))
        else:
            self._fault(CallError("truncated", "the stream ended before it was finished"))

    def _fault(self, error: CallError) -> None:
        """The reply itself is wrong, which only this side can see: the upstream is told."""
        if self.error is None:
            self.call.fault(error)
            if self.ended_at is None:
                self.ended_at = self._exchange.now()
            self._fail(error)

    def _fail(self, error: CallError) -> None:
        if self.error is not None:
            return
        self.error = error
        if self.committed:
            self._exchange.answer_broke(self, error)
        else:
            self._judge(complete=False)

    # What the exchange does with it.

    def whole_body(self) -> bytes:
        """The reply's body, or what has arrived of it."""
        chunks = self._chunks
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def commit(self, pass_on: Callable[[bytes], None]) -> bytes:
        """From here on the reply goes to the client as it comes, through `pass_on`; what was held is handed over, byte for byte."""
        self._pass_on = pass_on
        held = self.whole_body()
        self._chunks = []
        self.committed = True
        if self.reader is not None:
            self.reader.commit()
        return held

    def cancel(self) -> None:
        """Stop the call, if it still runs; nothing more is heard of it."""
        if self.ended_at is None:
            self.ended_at = self._exchange.now()
            if self.error is None:
                self.error = CallError("cancelled", "cancelled")
            self.call.cancel()
