"""The ledgers of all cascades: fed with records, kept over restarts, and the voice that tells workers what follows."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

import msgspec

from gateway.control.counts import replace_file
from gateway.control.ledger import Ledger, begin
from gateway.control.policy_file import read_bounded
from gateway.control.promise import Promise, promise
from gateway.link.messages import CascadeState, ExchangeRecord
from policies.schema import Policy

log = logging.getLogger(__name__)

FILE_BYTES_MAX = 16 * 1024 * 1024
SEEN_MAX = 4_096
"""Audited exchanges that are known again: a worker sends what was not acknowledged twice."""
_DIGEST_BYTES = 8


class Saved(msgspec.Struct, frozen=True):
    """What a restarted controller goes on with."""

    version: int
    ledgers: dict[str, Ledger]
    """By route."""
    seen: bytes
    """Digests of exchange ids, oldest first."""


VERSION = 1


class Ledgers:
    """One ledger for each route with a cascade. `take` is called on the consumer's thread, everything else on the event loop."""

    def __init__(self, state_dir: str, now: Callable[[], float] = time.time) -> None:
        self._path = os.path.join(state_dir, "audits.msgpack")
        self._now = now
        self._lock = threading.Lock()
        self._promises: dict[str, Promise] = {}
        self._ledgers: dict[str, Ledger] = {}
        self._seen: dict[bytes, None] = {}
        self._saved = b""
        self._failing = False

    # What happens

    def in_force(self, policy: Policy, version: str, files: Mapping[str, bytes]) -> None:
        """A policy has come into force: a cascade that it leaves as it is goes on, one that it changes begins anew."""
        promises = {route.name: promise(route, policy, files) for route in policy.routes if route.cascade is not None}
        with self._lock:
            before, self._ledgers = self._ledgers, {}
            self._promises = promises
            for route, promised in promises.items():
                ledger = before.get(route)
                if ledger is not None and ledger.key == promised.key:
                    ledger.adopt(version, promised)
                else:
                    ledger = begin(promised, version, self._now())
                self._ledgers[route] = ledger

    def take(self, records: Sequence[ExchangeRecord]) -> None:
        """Count records; `gateway.records.consumer.Sink`."""
        with self._lock:
            for record in records:
                if (
                    record.findings is not None
                    and record.route in self._ledgers
                    and not (record.audits and self._again(record.exchange_id))
                ):
                    ledger = self._ledgers[record.route]
                    if ledger.take(record, self._promises[record.route], self._now()):
                        self._tell(record.route, ledger)

    def restart(self, route: str) -> bool:
        """Begin a route's ledger anew, and undo what an audit has done to it; False where it has none."""
        with self._lock:
            if route not in self._ledgers:
                return False
            promised, before = self._promises[route], self._ledgers[route]
            ledger = begin(promised, next(reversed(before.versions)), self._now())
            self._ledgers[route] = ledger
        log.warning("the ledger of a cascade begins anew, since somebody asked for it", extra={"route": route})
        return True

    # What is asked

    def overlay(self) -> tuple[CascadeState, ...]:
        """What workers must know, by route."""
        with self._lock:
            found = (ledger.overlay(route) for route, ledger in sorted(self._ledgers.items()))
            return tuple(each for each in found if each is not None)

    def look(self) -> dict[str, tuple[Promise, Ledger]]:
        """A copy of every ledger with its promise, by route."""
        with self._lock:
            return {route: (promised, _copy(self._ledgers[route])) for route, promised in self._promises.items()}

    # Over a restart

    def restore(self) -> None:
        """Go on with what the controller before has saved. Blocks; never raises."""
        try:
            saved = msgspec.msgpack.decode(read_bounded(self._path, FILE_BYTES_MAX), type=Saved)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            log.warning("what audits have found is lost: ledgers begin anew", extra={"why": str(error)})
            return
        if saved.version == VERSION:
            with self._lock:
                self._ledgers = dict(saved.ledgers)
                ids = (saved.seen[at : at + _DIGEST_BYTES] for at in range(0, len(saved.seen), _DIGEST_BYTES))
                self._seen = dict.fromkeys(ids)

    async def save(self) -> None:
        """Write what has changed since the last time. A disk that fails is told of once."""
        with self._lock:
            data = msgspec.msgpack.encode(Saved(VERSION, self._ledgers, b"".join(self._seen)))
        if data == self._saved or not self._promises:
            return
        try:
            await asyncio.to_thread(replace_file, self._path, data)
        except OSError as error:
            if not self._failing:
                log.error("what audits have found cannot be saved: a restart would lose it", extra={"why": str(error)})
            self._failing = True
        else:
            self._saved, self._failing = data, False

    def _again(self, exchange_id: str) -> bool:
        digest = blake2b(exchange_id.encode(), digest_size=_DIGEST_BYTES).digest()
        if digest in self._seen:
            return True
        self._seen[digest] = None
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        return False

    def _tell(self, route: str, ledger: Ledger) -> None:
        log.warning(
            "audits have found that a cascade breaks its promise",
            extra={"route": route, "violations": ledger.violations, "on_violation": ledger.on_violation},
        )


def _copy(ledger: Ledger) -> Ledger:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(ledger), type=Ledger)
