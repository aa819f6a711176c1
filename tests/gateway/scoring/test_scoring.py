"""The scoring process and its clients, in one event loop over a real socket; the detectors are played, or tiny."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from gateway.link import framed
from gateway.link.framing import encode_frame
from gateway.scoring import client as client_module
from gateway.scoring import process as process_module
from gateway.scoring.client import FOLDERS_MAX, WAITING_MAX, ScoringClient
from gateway.scoring.detectors import KEPT_MAX, RETRY_S, Detectors
from gateway.scoring.messages import Question
from gateway.scoring.opening import open_detectors
from gateway.scoring.pretrained import PretrainedError
from gateway.scoring.process import BATCH_MAX, ScoringServer
from gateway.telemetry.counters import Counters
from policies.detector import UNANSWERED, UNAVAILABLE, CompiledDetector
from policies.ood.artifact import dumps, loads
from policies.ood.encoder import Encoder
from policies.ood.energy import UNAVAILABLE as NO_SCORE
from policies.ood.energy import Scored, Scorer
from policies.plan import Assessment
from policies.schema_rules import Detector
from tests.gateway.link.examples import eventually
from tests.policies.ood.generated import small
from tests.policies.ood.tiny import VOCABULARY, encoder, slow_artifact, tensors, weights

DETECTOR = CompiledDetector(Detector("d", "d.npz"), slow_artifact())
DIGEST = DETECTOR.digest
LATER = float("inf")


class Played:
    """Detectors that wait to be let go on; the score of a text is its length."""

    def __init__(self, *, held: bool = False) -> None:
        self.go = threading.Event()
        if not held:
            self.go.set()
        self.batches: list[list[str]] = []
        self.opened: list[tuple[str, str]] = []
        self.error = ""

    def open(self, digest: str, folder: str) -> str:
        self.opened.append((digest, folder))
        return self.error

    def score(self, digest: str, folder: str, texts: Sequence[str]) -> list[Scored] | None:
        self.batches.append(list(texts))
        assert self.go.wait(20)
        if "boom" in texts:
            raise RuntimeError("boom")
        return None if folder == "/gone" else [NO_SCORE if text == "..." else Scored(0.5, float(len(text)), "ok") for text in texts]


@asynccontextmanager
async def serving(path: str, detectors: Played | Detectors) -> AsyncIterator[None]:
    stop = asyncio.Event()
    server = asyncio.create_task(ScoringServer(path, detectors).run(stop))
    try:
        yield
    finally:
        if isinstance(detectors, Played):
            threading.Timer(0.1, detectors.go.set).start()  # after the connections are cut
        stop.set()
        await server


class Asking:
    """A worker's client, and what it was told."""

    def __init__(self, path: str, folder: str = "/f") -> None:
        self.counters = Counters()
        self.client = ScoringClient(path, counters=self.counters)
        self.client.know({DIGEST: folder})
        self.told: dict[str, Assessment] = {}

    def ask(self, text: str, until: float = LATER) -> client_module.Waiting | None:
        return self.client.ask(DETECTOR, text, None, until, lambda found: self.told.__setitem__(text, found))

    async def until_told(self, *texts: str) -> list[Assessment]:
        await eventually(lambda: self.told.keys() >= set(texts))
        return [self.told[text] for text in texts]

    def counted(self, result: str) -> float:
        return self.counters.counter("headgate_scoring_requests_total", "d", result).value


@asynccontextmanager
async def asking(folder: Path, detectors: Played | Detectors, files: str = "/f") -> AsyncIterator[Asking]:
    path = str(folder / "ood.sock")
    async with serving(path, detectors):
        found = Asking(path, files)
        await found.client.settle()
        yield found
        await found.client.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may be busy; what is about the deadline sets its own."""
    monkeypatch.setattr(client_module, "DEADLINE_S", 30.0)


async def test_a_text_is_scored_and_judged_by_the_policys_threshold(tmp_path: Path) -> None:
    async with asking(tmp_path, Played()) as worker:
        worker.ask("a text")
        worker.ask("...")
        assert await worker.until_told("a text", "...") == [DETECTOR.judged(6.0, 0.5), UNAVAILABLE]
        assert (worker.counted("ok"), worker.counted("unavailable"), worker.client.waiting) == (1, 1, 0)
        assert sum(worker.counters.histogram("headgate_scoring_seconds", "d").counts) == 2


async def test_texts_that_wait_are_scored_together_and_no_more_than_so_many(tmp_path: Path) -> None:
    played = Played(held=True)
    async with asking(tmp_path, played) as worker:
        worker.ask("first")
        await eventually(lambda: played.batches == [["first"]])
        texts = [f"text {n}" for n in range(BATCH_MAX + 2)]
        for text in texts:
            worker.ask(text)
        await asyncio.sleep(0.05)
        played.go.set()
        await worker.until_told("first", *texts)
        assert played.batches == [["first"], texts[:BATCH_MAX], texts[BATCH_MAX:]]


async def test_what_does_not_come_in_time_is_unanswered_and_not_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(held=True)
    async with asking(tmp_path, played) as worker:
        worker.ask("first")
        await eventually(lambda: played.batches == [["first"]])
        monkeypatch.setattr(client_module, "DEADLINE_S", 0.02)
        worker.ask("late")
        assert await worker.until_told("late") == [UNANSWERED]
        assert worker.counted("late") == 1
        monkeypatch.setattr(client_module, "DEADLINE_S", 30.0)
        worker.ask("past", until=0.0)
        assert await worker.until_told("past") == [UNANSWERED]
        worker.ask("last")
        played.go.set()
        await worker.until_told("first", "last")
        assert played.batches == [["first"], ["last"]]


async def test_only_so_many_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "QUEUE_MAX", 3)
    played = Played(held=True)
    async with asking(tmp_path, played) as worker:
        worker.ask("first")
        await eventually(lambda: played.batches == [["first"]])
        for n in range(1, WAITING_MAX):
            assert worker.ask(f"text {n}") is not None
        assert worker.ask("one too many") is None
        assert worker.counted("full") == 1
        await worker.until_told(*(f"text {n}" for n in range(4, WAITING_MAX)))
        assert worker.counted("full") == WAITING_MAX - 3, "the process has a limit of its own"
        played.go.set()
        await worker.until_told("text 1", "text 2", "text 3")
        assert worker.client.waiting == 0


async def test_one_that_is_forgotten_hears_nothing(tmp_path: Path) -> None:
    played = Played(held=True)
    async with asking(tmp_path, played) as worker:
        waiting = worker.ask("left")
        assert waiting is not None
        await eventually(lambda: played.batches == [["left"]])
        waiting.forget()
        assert (worker.client.waiting, worker.counted("left")) == (0, 1)
        played.go.set()
        worker.ask("next")
        await worker.until_told("next")
        assert "left" not in worker.told


async def test_a_text_that_cannot_be_scored_ends_nothing(tmp_path: Path) -> None:
    async with asking(tmp_path, Played()) as worker:
        worker.ask("boom")
        assert await worker.until_told("boom") == [UNANSWERED]
        worker.client.know({DIGEST: "/gone"})
        worker.ask("gone")
        assert await worker.until_told("gone") == [UNANSWERED]
        assert worker.counted("failed") == 2
        worker.client.know({DIGEST: "/f"})
        worker.ask("well")
        assert (await worker.until_told("well"))[0].status == "ok"


async def test_while_the_process_is_away_requests_are_unscored_and_then_scored_again(tmp_path: Path) -> None:
    path = str(tmp_path / "ood.sock")
    worker = Asking(path)
    assert worker.ask("nobody there") is None
    played = Played(held=True)
    async with serving(path, played):
        await worker.client.settle()
        worker.ask("lost")
        await eventually(lambda: played.batches == [["lost"]])
        played.go.set()
        await worker.until_told("lost")
        played.go.clear()
        worker.ask("cut off")
        await eventually(lambda: len(played.batches) == 2)
    assert await worker.until_told("cut off") == [UNANSWERED]
    assert worker.ask("away") is None
    assert worker.counted("away") == 3
    async with serving(path, Played()):
        await eventually(lambda: worker.ask("again") is not None)
        assert (await worker.until_told("again"))[0].status == "ok"
    await worker.client.close()


async def test_a_process_that_speaks_nonsense_is_left(tmp_path: Path) -> None:
    path = str(tmp_path / "ood.sock")
    seen: list[str] = []

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append("connected")
        writer.write(b"\xff" * 64)
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(nonsense, path)
    worker = Asking(path)
    await eventually(lambda: len(seen) > 1)
    await worker.client.close()
    server.close()


async def test_a_peer_that_speaks_nonsense_is_cut_off(tmp_path: Path) -> None:
    async with asking(tmp_path, Played()) as worker:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "ood.sock"))
        writer.write(b"\xff" * 64)
        assert await reader.read() == b""
        writer.close()
        worker.ask("well")
        await worker.until_told("well")


async def test_a_worker_that_reads_nothing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "SEND_BUFFER_BYTES_MAX", 10_000)
    loop = asyncio.get_running_loop()
    past = encode_frame(Question(1, DIGEST, "/f", "late", 0.0)) * 1000
    async with asking(tmp_path, Played()) as worker:
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.setblocking(False)
            await loop.sock_connect(deaf, str(tmp_path / "ood.sock"))

            async def say() -> None:
                while True:
                    await loop.sock_sendall(deaf, past)

            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                await asyncio.wait_for(say(), 20)
        worker.ask("well")
        await worker.until_told("well")


async def test_a_process_that_is_lost_before_it_was_asked_is_soon_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framed, "BACKOFF_FIRST_S", 0.001)
    monkeypatch.setattr(framed, "BACKOFF_MAX_S", 1e6)  # after twenty tries in a row that count as failed
    seen: list[str] = []

    async def lost(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append("connected")
        writer.close()

    server = await asyncio.start_unix_server(lost, str(tmp_path / "ood.sock"))
    worker = Asking(str(tmp_path / "ood.sock"))
    await eventually(lambda: len(seen) > 20)
    await worker.client.close()
    server.close()


def test_only_the_latest_folders_are_kept() -> None:
    client = ScoringClient("/nowhere", counters=Counters())
    client._runner = "not to be started"  # type: ignore[assignment]
    client.know({str(n): "/f" for n in range(FOLDERS_MAX + 3)})
    assert len(client._folders) == FOLDERS_MAX
    assert "2" not in client._folders


# What the controller asks before a policy comes into force.


async def test_detectors_are_opened_by_a_process_that_may_only_just_start(tmp_path: Path) -> None:
    path = str(tmp_path / "ood.sock")
    opening = asyncio.create_task(open_detectors(path, {"d": DIGEST, "same": DIGEST}, "/f"))
    await asyncio.sleep(0.1)
    played = Played()
    async with serving(path, played):
        assert await opening == []
        assert played.opened == [(DIGEST, "/f")]
        played.error = "the encoder is not installed"
        assert await open_detectors(path, {"d": DIGEST}, "/f") == ["detector d: the encoder is not installed"]
    (why,) = await open_detectors(path, {"d": DIGEST}, "/f", within_s=0.1)
    assert "did not answer within 0.1 s" in why


# The detectors themselves.


def stored(folder: Path, *artifacts: bytes) -> list[str]:
    digests = [sha256(each).hexdigest() for each in artifacts]
    for digest, data in zip(digests, artifacts, strict=True):
        (folder / digest).write_bytes(data)
    return digests


def test_a_text_alone_scores_as_offline_to_the_last_bit_and_in_company_nearly(tmp_path: Path) -> None:
    (digest,) = stored(tmp_path, slow_artifact())
    offline = Scorer(loads(slow_artifact()).head, encoder().encode)
    detectors = Detectors(lambda fingerprint: encoder())
    texts = ["please cancel my parcel today", "please track my invoice today", "a quasar", "🙂", ""]
    for text in texts:
        assert detectors.score(digest, str(tmp_path), [text]) == [offline.score(text)] or offline.score(text).status == "unavailable"
    together = detectors.score(digest, str(tmp_path), texts)
    assert together is not None
    assert [each.status for each in together] == [offline.score(text).status for text in texts]
    for text, each in zip(texts, together, strict=True):
        if each.status == "ok":
            np.testing.assert_allclose([each.score, each.energy], offline.score(text)[:2][::-1], rtol=1e-4)


def test_one_without_an_encoder_needs_none_and_scores_as_offline_to_the_last_bit(tmp_path: Path) -> None:
    def none(fingerprint: str) -> Encoder:
        raise PretrainedError("nothing is installed")

    (digest,) = stored(tmp_path, dumps(small().detector))
    detectors = Detectors(none)
    texts = ["please cancel my parcel today", " ".join(map(str, range(10_000, 10_300))), "🙂"]
    offline = Scorer(small().detector.head)
    assert detectors.score(digest, str(tmp_path), texts) == [offline.score(text) for text in texts]


def test_half_a_detector_is_none(tmp_path: Path) -> None:
    whole = slow_artifact()
    (digest,) = stored(tmp_path, whole)
    (tmp_path / digest).write_bytes(whole[:-100])
    clock = [0.0]
    detectors = Detectors(lambda fingerprint: encoder(), lambda: clock[0])
    assert "damaged" in detectors.open(digest, str(tmp_path))
    assert detectors.score(digest, str(tmp_path), ["hello"]) is None
    (tmp_path / digest).write_bytes(whole)
    assert detectors.score(digest, str(tmp_path), ["hello"]) is None, "it is not read for every text"
    clock[0] += RETRY_S
    assert detectors.score(digest, str(tmp_path), ["hello"]) is not None
    (tmp_path / digest).write_bytes(b"another")
    assert detectors.score(digest, str(tmp_path), ["hello"]) is not None, "what was read stays"
    assert "No such file" in detectors.open("0" * 64, str(tmp_path))
    (none,) = stored(tmp_path, b"not a detector")
    assert "not a detector" in detectors.open(none, str(tmp_path))


def test_the_encoder_must_be_that_of_the_fit(tmp_path: Path) -> None:
    (digest,) = stored(tmp_path, slow_artifact())

    def other(fingerprint: str) -> Encoder:
        assert fingerprint == encoder().fingerprint
        raise PretrainedError("another one is installed")

    assert Detectors(other).open(digest, str(tmp_path)) == "another one is installed"


def test_an_encoder_that_was_exchanged_scores_only_what_was_fitted_with_it(tmp_path: Path) -> None:
    there = {encoder().fingerprint: encoder()}
    second = Encoder(weights(tensors(4)), VOCABULARY)
    there[second.fingerprint] = second
    fitted = loads(slow_artifact())
    facts = type(fitted.facts)(
        **{name: getattr(fitted.facts, name) for name in fitted.facts.__struct_fields__} | {"encoder": second.fingerprint}
    )
    first_digest, second_digest = stored(tmp_path, slow_artifact(), dumps(type(fitted)(fitted.head, fitted.calibration, facts)))
    detectors = Detectors(there.__getitem__)
    before = detectors.score(first_digest, str(tmp_path), ["hello"])
    assert detectors.open(second_digest, str(tmp_path)) == ""
    assert detectors.score(first_digest, str(tmp_path), ["hello"]) == before != detectors.score(second_digest, str(tmp_path), ["hello"])


def test_only_those_asked_last_are_kept(tmp_path: Path) -> None:
    fitted = loads(slow_artifact())
    values = {name: getattr(fitted.facts, name) for name in fitted.facts.__struct_fields__}
    artifacts = [
        dumps(type(fitted)(fitted.head, fitted.calibration, type(fitted.facts)(**values | {"outliers": n}))) for n in range(KEPT_MAX + 1)
    ]
    digests = stored(tmp_path, *artifacts)
    detectors = Detectors(lambda fingerprint: encoder())
    for digest in digests:
        assert detectors.open(digest, str(tmp_path)) == ""
        assert detectors.open(digests[0], str(tmp_path)) == ""
    assert len(detectors._scorers) == KEPT_MAX
    assert digests[0] in detectors._scorers
    assert digests[1] not in detectors._scorers
