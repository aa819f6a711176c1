"""The data plane's composition root: one event loop that takes requests, drives plans and relays bytes, and nothing else.

It is told its policy over the link and reports what it did over the link; if the controller dies it serves on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import socket
import ssl
import time

import msgspec
import uvloop

from gateway import settings as process_settings
from gateway.exchange.audits import Audits
from gateway.exchange.executor import Exchange
from gateway.exchange.order import Site
from gateway.exchange.snapshot import Snapshots
from gateway.link.messages import Discard, Down, ExchangeRecord, Hello, Overlay, Prepare, Prepared, ReplicaSeen, Swap, Swapped
from gateway.link.named_files import read_named
from gateway.link.unix import WorkerLink, socket_path
from gateway.protocol.errors import error_body
from gateway.scoring.client import ScoringClient
from gateway.scoring.messages import scoring_path
from gateway.server.accept import Acceptor
from gateway.settings import Settings
from gateway.telemetry import logs
from gateway.telemetry.counters import Counters
from gateway.telemetry.sample import Sample
from gateway.upstream.address import Address
from gateway.upstream.base import Upstream
from gateway.upstream.http import HttpUpstream
from gateway.upstream.kinds import replica_urls
from gateway.wire import tls
from gateway.wire.base import ClientLimits, ServerLimits
from gateway.wire.listening import Listening, listen
from gateway.wire.pool import Pool
from gateway.wire.server import Server
from gateway.wire.ticker import Ticker
from policies import schema
from policies.compile import compile_policy, decode

log = logging.getLogger(__name__)

BACKLOG = 2048
LAST_ORDERS_S = 0.1
"""Between being told to stop and taking no more connections: who has just been told to leave its own may open another."""
LAST_WORDS_S = 1.0
"""What clients that are slow to read are given to learn that their answer is cut off."""
FLUSH_ON_EXIT_S = 5.0
LAG_PERIOD_S = 1.0
GC_THRESHOLDS = (50_000, 50, 50)
"""The request path makes no cycles; a full collection with thousands of open streams costs tens of milliseconds."""


class Worker:
    """One worker process, put together."""

    def __init__(self, settings: Settings, index: int, listener: socket.socket) -> None:
        self._settings = settings
        self._index = index
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._waited = asyncio.Event()
        """For the first policy, or for the end if that comes before it."""
        self._draining = False
        self._supervisor: socket.socket | None = None
        self._incarnation = os.urandom(8).hex()
        self._overlay = Overlay(workers=max(1, settings.workers))
        self.counters = Counters()
        self.ticker = Ticker(self._loop)
        self._upstream_tls: ssl.SSLContext | None = None
        self.snapshots = Snapshots(self._open_upstream, self.counters)
        self._problems = logs.Problems(log)
        self.link = WorkerLink(
            socket_path(settings.state_dir), hello=self._hello, on_message=self._on_message, totals=self._totals, counters=self.counters
        )
        self.scoring = ScoringClient(scoring_path(settings.state_dir), counters=self.counters)
        self.in_flight: set[Exchange] = set()
        now = time.monotonic  # the loop's own clock, but not rounded to milliseconds as uvloop's is
        new_id = random.Random(os.urandom(32)).getrandbits
        self.audits = Audits(now=now, call_later=self._loop.call_later, new_id=new_id)
        site = Site(
            now=now,
            call_later=self._loop.call_later,
            new_id=new_id,
            emit=self._emit,
            left=self._client_left,
            in_flight=self.in_flight,
            audits=self.audits,
            scoring=self.scoring,
        )
        acceptor = Acceptor(site, self.snapshots, trace_sample_percent=settings.trace_sample_percent, ready=lambda: not self._draining)
        self.server = Server(acceptor.handle, ServerLimits(), self.ticker, render_error=render_wire_error, hooks=WireHooks(self.counters))
        self.server.now = time.monotonic  # when a request began, by the same clock

    # Life

    async def run(self, supervisor: socket.socket | None) -> None:
        """Serve until told to stop, or until the supervisor is gone; then drain.

        Before the first policy nothing is accepted: connections wait in the socket's queue for whichever worker has one. A worker
        that is started while the controller is away must not take what another could answer.
        """
        if supervisor is not None:
            supervisor.setblocking(False)
            self._supervisor = supervisor
            self._loop.add_reader(supervisor.fileno(), self._hear_supervisor)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop)
        context = tls.server_context(self._settings.tls_cert, self._settings.tls_key) if self._settings.tls_cert else None
        self.link.start()
        self._loop.call_later(LAG_PERIOD_S, self._measure_lag, self._loop.time() + LAG_PERIOD_S)
        await self._waited.wait()
        listening: Listening | None = None
        await self.scoring.settle()
        if not self._stopping.is_set():
            listening = await listen(self.server, self._listener, ssl=context, backlog=BACKLOG)
            self._report_ready()
        await self._stopping.wait()
        await self._drain(listening)

    def _stop(self) -> None:
        self._stopping.set()
        self._waited.set()

    def _hear_supervisor(self) -> None:
        assert self._supervisor is not None
        try:
            gone = not self._supervisor.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            gone = True
        if gone:
            log.warning("the supervisor is gone")
            self._loop.remove_reader(self._supervisor.fileno())
            self._stop()

    def _report_ready(self) -> None:
        if self._supervisor is not None:
            with contextlib.suppress(OSError):
                self._supervisor.send(b'{"ready": true}\n')

    async def _drain(self, listening: Listening | None) -> None:
        """Take no new connection, answer what was asked, hand over every record."""
        self._draining = self.server.draining = True
        self.audits.stop()
        await asyncio.sleep(LAST_ORDERS_S)
        if listening is not None:
            await listening.close()
        live = self.snapshots.current
        drain_s = live.snapshot.policy.server.drain if live is not None else 0.0
        log.info("draining", extra={"in_flight": len(self.in_flight), "drain_s": drain_s})
        try:
            await asyncio.wait_for(asyncio.shield(self.server.drain()), drain_s)
        except TimeoutError:
            log.warning("drain time is over: what still runs is cut off", extra={"in_flight": len(self.in_flight)})
            for exchange in list(self.in_flight):
                exchange.abandon("the gateway is shutting down")
            with contextlib.suppress(TimeoutError):  # what they were told must go out
                await asyncio.wait_for(asyncio.shield(self.server.drain()), LAST_WORDS_S)
            self.server.close()
        if not await self.link.flush(FLUSH_ON_EXIT_S):
            log.warning("the controller did not take every record", extra={"waited_s": FLUSH_ON_EXIT_S})
        await self.link.close()
        await self.scoring.close()

    # The link

    def _hello(self) -> Hello:
        live = self.snapshots.current
        return Hello(self._index, os.getpid(), self._incarnation, "" if live is None else live.version)

    def _on_message(self, message: Down) -> None:
        match message:
            case Prepare():
                self._prepare(message)
            case Swap(version=version):
                self._swap(version)
            case Discard(version=version):
                self.snapshots.discard(version)
            case Overlay():
                self._overlay = message
                self.snapshots.set_cascades(message.cascades)
                for upstream in self.snapshots.upstreams:
                    self._apply_overlay(upstream)
            case _:
                log.warning("a message that is not for a worker", extra={"message_type": type(message).__name__})

    def _prepare(self, message: Prepare) -> None:
        try:
            files = {path: read_named(message.files, digest) for path, digest in message.named.items()}
            snapshot = compile_policy(decode(message.policy), message.version, files)
            self.snapshots.prepare(snapshot)
        except Exception as error:
            log.exception("the policy cannot be prepared", extra={"version": message.version})
            self.link.send(Prepared(message.version, f"{type(error).__name__}: {error}"))
        else:
            self.scoring.know(dict.fromkeys(snapshot.digests.values(), message.files))
            self.link.send(Prepared(message.version))

    def _swap(self, version: str) -> None:
        try:
            self.snapshots.swap(version)
        except KeyError:
            log.error("a policy was to be swapped in but is not prepared", extra={"version": version})
            return
        assert self.snapshots.current is not None
        body_max = self.snapshots.current.snapshot.policy.server.body_max
        self.server.limits = msgspec.structs.replace(self.server.limits, body_bytes_max=body_max)
        # What a policy is made of lives as long as the policy: keep the collector from walking it again and again.
        gc.collect()
        gc.freeze()
        log.info("policy in force", extra={"version": version})
        self.link.send(Swapped(version))
        self._waited.set()

    def _totals(self) -> list[Sample]:
        counters = self.counters
        counters.counter("headgate_connections_open").value = self.server.connections_open
        counters.counter("headgate_exchanges_in_flight").value = len(self.in_flight)
        counters.counter("headgate_audits_in_flight").value = len(self.audits.running)
        counters.counter("headgate_scoring_waiting").value = self.scoring.waiting
        return counters.totals()

    # Upstreams

    def _open_upstream(self, backend: schema.Backend) -> Upstream:
        upstream = HttpUpstream(
            msgspec.structs.replace(backend, replicas=replica_urls(backend, self._settings.embedded_port)),
            loop=self._loop,
            counters=self.counters,
            open_pool=self._open_pool,
            ticker=self.ticker,
            share=self._overlay.workers,
            breaker_turned=self._breaker_turned,
        )
        self._apply_overlay(upstream)
        return upstream

    def _breaker_turned(self, backend: str, replica: str, is_open: bool) -> None:
        self.link.send(ReplicaSeen(backend, replica, is_open))

    def _apply_overlay(self, upstream: Upstream) -> None:
        upstream.set_share(self._overlay.workers)
        upstream.set_replicas({state.replica: state.ready for state in self._overlay.replicas if state.backend == upstream.name})

    def _open_pool(self, address: Address) -> Pool:
        context: ssl.SSLContext | None = None
        if address.tls:
            context = self._upstream_tls = self._upstream_tls or tls.client_context(self._settings.upstream_ca)
        return Pool(address.host, address.port, ssl=context, limits=ClientLimits(), loop=self._loop, ticker=self.ticker)

    # Measures

    def _emit(self, record: ExchangeRecord) -> None:
        """Hand a record over; one of an answer that was an error of ours or a backend's is also a line of the log. What failed is in
        it and nothing that was said: a backend's message may repeat the prompt, and nothing is redacted yet."""
        if record.code >= 500:
            calls = " ".join(f"{call.backend}:{call.result if call.status is None else call.status}" for call in record.calls)
            self._problems.warn("a request failed", exchange_id=record.exchange_id, route=record.route, code=record.code, calls=calls)
        self.link.emit(record)

    def _client_left(self, phase: str) -> None:
        self.counters.counter("headgate_client_disconnects_total", phase).value += 1

    def _measure_lag(self, due: float) -> None:
        now = self._loop.time()
        self.counters.histogram("headgate_event_loop_lag_seconds").observe(max(0.0, now - due))
        self._loop.call_later(LAG_PERIOD_S, self._measure_lag, now + LAG_PERIOD_S)


class WireHooks:
    """Counts what the wire sees before there is an exchange."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def connection_opened(self) -> None: ...

    def connection_closed(self) -> None: ...

    def connection_refused(self) -> None:
        self._counters.counter("headgate_connections_refused_total").value += 1

    def wire_error(self, status: int) -> None:
        self._counters.counter("headgate_wire_errors_total", str(status)).value += 1


def render_wire_error(status: int, message: str) -> tuple[bytes, bytes]:
    """Header lines and an OpenAI-shaped body for what is wrong below the API. The request's own id may not even have been read: one
    is made, by which a line of the log is found."""
    request_id = os.urandom(12).hex()
    log.debug("a request was refused below the API", extra={"request_id": request_id, "status": status, "why": message})
    return b"content-type: application/json\r\nx-request-id: %b\r\n" % request_id.encode(), error_body(None, status, None, message)


async def serve(settings: Settings, index: int, data_fd: int, supervisor_fd: int | None) -> None:
    """Run one worker on an inherited listening socket until it has drained."""
    worker = Worker(settings, index, socket.socket(fileno=data_fd))
    await worker.run(None if supervisor_fd is None else socket.socket(fileno=supervisor_fd))


def main() -> None:
    """`python -m gateway.worker`: what the supervisor starts."""
    parser = argparse.ArgumentParser(prog="gateway.worker", description="One data-plane worker; started by the supervisor.")
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--data-fd", type=int, required=True)
    parser.add_argument("--supervisor-fd", type=int)
    args = parser.parse_args()
    settings = process_settings.decode(os.environ[process_settings.ENVIRONMENT_VARIABLE])
    logs.configure(format=settings.log_format, level=settings.log_level, process=f"worker-{args.index}")
    gc.set_threshold(*GC_THRESHOLDS)
    uvloop.run(serve(settings, args.index, args.data_fd, args.supervisor_fd))


if __name__ == "__main__":
    main()
