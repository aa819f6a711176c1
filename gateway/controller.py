"""The control plane's composition root: brings the policy to the workers, probes backends, keeps records, raises alerts, and
shows all of it. No request waits for it; if it dies, the workers serve on.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping

import msgspec
import uvloop
from starlette.applications import Starlette

from gateway import settings as process_settings
from gateway.admin.app import AdminApi, admin_app, metrics_app
from gateway.admin.serve import Site
from gateway.admin.views import Views
from gateway.control.alerts import AlertDesk, Sources
from gateway.control.apply import Applier
from gateway.control.cascade_report import CascadeReport, gauges, reports, violation
from gateway.control.counts import CountsFile
from gateway.control.exposure import open_to_all
from gateway.control.fleet import Fleet
from gateway.control.ledgers import Ledgers
from gateway.control.policy_file import PolicyFile
from gateway.control.reload import Reload, Reloader
from gateway.control.tether import Tether
from gateway.control.versions import VersionStore
from gateway.control.webhooks import Webhooks
from gateway.errors import LinkError, StoreError
from gateway.link.messages import Ack, Prepared, Records, ReplicaSeen, Swapped, Totals, Up
from gateway.link.server import LinkServer, Worker
from gateway.link.unix import socket_path
from gateway.records.call_metrics import CallMetrics, delta_wanted
from gateway.records.consumer import Consumer, Sink
from gateway.records.spans import Spans
from gateway.records.sqlite import SqliteStore
from gateway.scoring.messages import scoring_path
from gateway.scoring.opening import open_detectors
from gateway.settings import Settings
from gateway.tasks import TaskGroup
from gateway.telemetry import logs
from gateway.telemetry.metrics import Exposition
from gateway.telemetry.tracing import MetricsExport, SpanQueue
from gateway.upstream.kinds import replica_urls
from gateway.upstream.probe import Prober
from gateway.wire import tls
from monitors.alerts import Alert
from policies import schema
from policies.errors import PolicyError

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0
"""Alerts are evaluated so often."""
SETTLE_S = 5.0
"""Workers that serve on through a restart of the controller are back by then."""
LINGER_S = 1.0
"""What workers that are still connected are given at the end."""
GC_THRESHOLDS = (50_000, 50, 50)
"""Records are trees: the collector finds nothing among them, and had a twelfth of the controller's time."""
ORPHAN_GRACE_S = 5.0
"""Beyond `server.drain`, for workers that drain because the supervisor is gone."""


class Controller:
    """One controller process, put together."""

    def __init__(self, settings: Settings, tether: socket.socket | None = None) -> None:
        self._settings = settings
        self._stopping = asyncio.Event()
        self._linger_s = LINGER_S
        self._restarts: Mapping[str, int] = {}
        self._policy: schema.Policy | None = None
        self._tasks = TaskGroup()
        self._tether = Tether(tether, on_restarts=self._restarted, on_gone=self._supervisor_gone)
        self._exposition = Exposition()
        self._counts = CountsFile(settings.state_dir, settings.run)
        self._counts.restore(self._exposition)
        self._store = SqliteStore(os.path.join(settings.state_dir, "records.sqlite"))
        self._span_queue = SpanQueue(settings.otlp_endpoint, self._exposition) if settings.otlp_endpoint else None
        sinks: list[Sink] = [] if self._span_queue is None else [Spans(self._span_queue, self._exposition)]
        self._metrics_export: MetricsExport | None = None
        if settings.otlp_metrics_endpoint:
            calls = CallMetrics(delta=delta_wanted(os.environ))
            sinks.append(calls)
            self._metrics_export = MetricsExport(settings.otlp_metrics_endpoint, calls.collect)
        self._ledgers = Ledgers(settings.state_dir)
        self._ledgers.restore()
        self._cascades: list[CascadeReport] = []
        """As of the last look."""
        sinks.append(self._ledgers)
        self._consumer = Consumer(self._store, self._exposition, sinks, self._records_policy, workers=settings.workers)
        self._fleet = Fleet(expected=settings.workers)
        self._fleet.set_cascades(self._ledgers.overlay())
        self._link = LinkServer(
            socket_path(settings.state_dir), on_hello=self._fleet.on_hello, on_message=self._on_message, on_gone=self._on_gone
        )
        authorities = tls.client_context(settings.upstream_ca)
        self._prober = Prober(self._exposition, on_change=self._replicas_changed, tls=authorities)
        versions = VersionStore(settings.state_dir)
        self._reloader = Reloader(
            PolicyFile(settings.policy, os.environ),
            versions,
            Applier(versions, self._fleet, self._prober, self),
            os.environ,
            on_outcome=self._reloaded,
        )
        self._webhooks = Webhooks(lambda result: self._exposition.counter("headgate_alert_deliveries_total", result).inc())
        sources = Sources(
            self._reloader,
            self._fleet,
            self._prober.views,
            dropped=lambda: sum(self._exposition.values("headgate_records_dropped_total").values()),
            restarts=lambda: self._restarts,
            workers=settings.workers,
            limited=lambda: self._exposition.values("headgate_defer_limited_total"),
            violations=lambda: {each.route: why for each in self._cascades if (why := violation(each)) is not None},
        )
        self._desk = AlertDesk(sources.conditions, self._tell)
        self._views = Views(
            self._reloader, self._fleet, self._desk, self._exposition, self._prober.views, settings.workers, self._cascade_reports
        )

    # Life

    async def run(self, admin: socket.socket, metrics: socket.socket) -> None:
        """Control until told to stop.

        Raises:
            PolicyError: There is no policy to serve, neither in the file nor stored.
            LinkError: The workers cannot be heard.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.poke)
        self._tether.start()
        try:
            await self._store.open()
        except StoreError as error:
            log.error("records cannot be kept", extra={"why": str(error)})
        await self._link.start()
        loop.call_later(SETTLE_S, self._fleet.settle)
        loop.call_later(SETTLE_S, self._exposition.settle)
        sites = [Site(self._admin_app(), admin), Site(metrics_app(self._exposition), metrics)]
        try:
            if await self._started():
                self._consumer.start()  # not before there is a policy to say what is kept, and for how long
                for site in sites:
                    site.start()
                self._tasks.spawn(self._reloader.watch(), name="watch the policy file")
                self._tasks.spawn(self._look_always(), name="alerts")
                self._tether.report(ready=True)
                await self._stopping.wait()
        finally:
            await self._close(sites)

    async def _started(self) -> bool:
        """Whether the first policy came into force before the end."""
        start = asyncio.ensure_future(self._reloader.start())
        stop = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({start, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if start.done():
            start.result()
            return True
        start.cancel()
        return False

    async def _close(self, sites: list[Site]) -> None:
        """Take in what the workers still send, then store it. The supervisor has let them drain first."""
        log.info("stopping")
        for site in sites:
            await site.close()
        await self._reloader.close()
        deadline = asyncio.get_running_loop().time() + self._linger_s
        while self._fleet.members and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await self._consumer.close()
        await self._ledgers.save()
        await self._link.close()
        await self._tasks.close()
        await self._prober.close()
        await self._webhooks.close()
        await self._store.close()
        if self._span_queue is not None:
            await asyncio.to_thread(self._span_queue.close)
        if self._metrics_export is not None:
            await asyncio.to_thread(self._metrics_export.close)
        self._tether.close()

    def _supervisor_gone(self) -> None:
        """The workers have seen it too, and drain: stay until they are done."""
        drain_s = self._policy.server.drain if self._policy is not None else 0.0
        self._linger_s = drain_s + ORPHAN_GRACE_S
        self._stopping.set()

    def _restarted(self, restarts: Mapping[str, int]) -> None:
        self._restarts = restarts
        for process, count in restarts.items():
            self._exposition.counter("headgate_worker_restarts_total", process).value = count

    # The link

    def _on_message(self, worker: Worker, message: Up) -> None:
        match message:
            case Records(sequence=sequence, records=records):
                self._consumer.take(records, lambda: worker.send(Ack(sequence)))
            case Totals(samples=samples):
                self._exposition.update(worker.hello.incarnation, samples)
            case Prepared() | Swapped() | ReplicaSeen():
                self._fleet.on_message(worker, message)
            case _:
                raise LinkError(f"a second {type(message).__name__}")

    def _on_gone(self, worker: Worker) -> None:
        self._fleet.on_gone(worker)
        self._exposition.retire(worker.hello.incarnation)

    # Hooks of a policy on its way in

    def objection(self, policy: schema.Policy) -> str:
        """`serve` has asked the same of the first policy; this one may come by a reload or a rollback."""
        return open_to_all(policy, self._settings.host)

    def place(self, policy: schema.Policy) -> schema.Policy:
        """With the addresses of the embedded models."""
        port = self._settings.embedded_port
        placed = (msgspec.structs.replace(backend, replicas=replica_urls(backend, port)) for backend in policy.backends)
        return msgspec.structs.replace(policy, backends=tuple(placed))

    def preparing(self, policy: schema.Policy) -> None:
        """Have the supervisor start the engines whose backends are about to be probed."""
        engines = {backend.kind for backend in policy.backends if backend.kind == "embedded"}
        self._tether.report(engines=sorted(engines))

    async def open_detectors(self, digests: Mapping[str, str], folder: str) -> list[str]:
        """Have the supervisor start the scoring process, and wait until it has read them."""
        self._tether.report(engines=["scoring"])
        return await open_detectors(scoring_path(self._settings.state_dir), digests, folder)

    def in_force(self, policy: schema.Policy, version: str, files: Mapping[str, bytes]) -> None:
        """The policy has been swapped in."""
        self._policy = policy
        self._ledgers.in_force(policy, version, files)
        self._fleet.set_cascades(self._ledgers.overlay())
        self._tether.report(drain_s=policy.server.drain)
        self._webhooks.set_urls(webhook.url for webhook in policy.alerts.webhooks)
        self._exposition.set_gauges("headgate_policy_info", {(version,): 1.0})

    def _reloaded(self, outcome: Reload) -> None:
        self._exposition.counter("headgate_policy_reloads_total", outcome.result).inc()
        self._look()

    def _records_policy(self) -> schema.Records:
        return self._policy.records if self._policy is not None else schema.Records()

    # Probes, alerts and gauges

    def _replicas_changed(self) -> None:
        self._fleet.set_replicas(self._prober.states())

    async def _look_always(self) -> None:
        while True:
            self._look()
            await self._counts.save(self._exposition)
            await self._ledgers.save()
            await asyncio.sleep(LOOK_INTERVAL_S)

    def _look(self) -> None:
        self._cascades = reports(self._ledgers.look())
        self._fleet.set_cascades(self._ledgers.overlay())
        self._desk.look()
        firing = self._desk.board.firing()
        self._fleet.set_alerts(sorted({alert.name for alert in firing}))
        set_gauges = self._exposition.set_gauges
        set_gauges("headgate_alerts", {(alert.name, alert.subject): 1.0 for alert in firing})
        set_gauges("headgate_policy_rejected", {(): float(self._reloader.rejected is not None)})
        set_gauges("headgate_policy_pinned", {(): float(self._reloader.pinned)})
        for name, values in gauges(self._cascades).items():
            set_gauges(name, values)
        set_gauges("headgate_workers", {(): float(len(self._fleet.members))})

    def _cascade_reports(self) -> list[CascadeReport]:
        return reports(self._ledgers.look())

    def _restart_ledger(self, route: str) -> bool:
        """Begin a cascade's ledger anew, and tell the workers."""
        done = self._ledgers.restart(route)
        self._look()
        return done

    def _tell(self, alert: Alert) -> None:
        self._webhooks.post(alert, self._reloader.version)

    # The admin API

    def _admin_app(self) -> Starlette:
        api = AdminApi(self._views, self._reloader, Reader(self._consumer, self._store), self._restart_ledger)
        names = (self._settings.admin_host, *map(str.strip, self._settings.admin_names.split(",")))
        return admin_app(api, key=self._settings.admin_key, names=names)


class Reader:
    """Stored exchanges: one that has only just been taken is stored first, so that its id can be asked for at once."""

    def __init__(self, consumer: Consumer, store: SqliteStore) -> None:
        self.get = consumer.get
        self.recent = store.recent
        self.audited = store.audited


async def _main(settings: Settings, admin_fd: int, metrics_fd: int, supervisor_fd: int | None) -> None:
    tether = None if supervisor_fd is None else socket.socket(fileno=supervisor_fd)
    await Controller(settings, tether).run(socket.socket(fileno=admin_fd), socket.socket(fileno=metrics_fd))


def main() -> int:
    """The exit code: 0, or 1 where there is no policy to serve or no way to hear the workers."""
    parser = argparse.ArgumentParser(prog="gateway.controller", description="The control plane; started by the supervisor.")
    parser.add_argument("--admin-fd", type=int, required=True)
    parser.add_argument("--metrics-fd", type=int, required=True)
    parser.add_argument("--supervisor-fd", type=int)
    args = parser.parse_args()
    settings = process_settings.decode(os.environ[process_settings.ENVIRONMENT_VARIABLE])
    logs.configure(format=settings.log_format, level=settings.log_level, process="controller")
    for name in ("httpx", "httpcore", "uvicorn"):  # httpx logs whole URLs, and a webhook's is a secret
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        # What was imported stays: the collector need not walk it.
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        uvloop.run(_main(settings, args.admin_fd, args.metrics_fd, args.supervisor_fd))
    except PolicyError as error:
        log.critical("no policy to serve: %d problems, told above", len(error.problems))
    except LinkError as error:
        log.critical("cannot start: %s", error)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
