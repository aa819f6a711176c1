"""The prober against replicas on real sockets. Its pauses are a queue that the test releases."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.telemetry.metrics import Exposition
from gateway.upstream.probe import Prober
from policies.schema import Backend
from tests.gateway.upstream.replicas import Act, RealReplica, Seen, answers, closes, hangs, refused_url
from tests.gateway.upstream.rig import backend

CHOICE = {"choices": [{"message": {"content": "p"}}]}
WITH_LOGPROBS = {"choices": [{"logprobs": {"content": [{"logprob": -0.1, "top_logprobs": [{"logprob": -0.1}, {"logprob": -3.0}]}]}}]}
WITH_LOGITS = {"choices": [{"logprobs": {"content": [{"logprob": 9.5, "top_logprobs": [{"logprob": 9.5}, {"logprob": 1.0}]}]}}]}
well = answers(200, CHOICE)


class Watch:
    """A prober, what it told, and its pauses."""

    def __init__(self) -> None:
        self.exposition = Exposition()
        self.changes = asyncio.Queue[list[tuple[str, bool, bool]]]()
        self.pauses: list[float] = []
        self.paused = asyncio.Semaphore(0)
        self._go = asyncio.Event()
        self.prober = Prober(self.exposition, on_change=self._changed, sleep=self._sleep, jitter=lambda: 0.5)

    def _changed(self) -> None:
        self.changes.put_nowait(self.states)

    @property
    def states(self) -> list[tuple[str, bool, bool]]:
        return [(state.backend, state.ready, state.evidence_ok) for state in self.prober.states()]

    @property
    def messages(self) -> list[str]:
        return [view.message for view in self.prober.views()]

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.paused.release()
        go = self._go
        await go.wait()

    async def probed(self) -> None:
        """Until a probe has ended and the pause after it began."""
        await asyncio.wait_for(self.paused.acquire(), 5)

    def again(self) -> None:
        """The pause is over."""
        go, self._go = self._go, asyncio.Event()
        go.set()

    async def of(self, *backends: Backend) -> None:
        self.prober.watch(backends)
        for _ in range(sum(len(each.replicas) for each in backends)):
            await self.probed()


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    it = Watch()
    yield it
    await it.prober.close()


def by_path(**acts: Act) -> Act:
    """An engine that has only these endpoints; `/v1/models` is there whatever happens."""

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        name = seen.path.removeprefix("/v1/").replace("/", "_")
        return await acts.get(name, answers(404, {"detail": "Not Found"}))(seen, writer)

    return act


@pytest.mark.key("backends[].readiness.prompt")
@pytest.mark.key("backends[].readiness.max_tokens")
async def test_ready_is_having_answered_a_prompt(watch: Watch) -> None:
    async with RealReplica(well) as replica:
        await watch.of(backend(replicas=[replica.url + "/base/"], readiness={"prompt": "are you there", "max_tokens": 3}, api_key="k"))
        assert watch.states == [("small", True, True)]
        assert watch.prober.is_ready("small")
        seen = replica.seen[0]
        assert seen.path == "/base/v1/chat/completions"
        assert seen.json["messages"] == [{"role": "user", "content": "are you there"}]
        assert (seen.json["model"], seen.json["max_tokens"]) == ("m", 3)
        assert seen.headers["authorization"] == "Bearer k"
        labels = ("small", replica.url + "/base/")
        assert watch.exposition.value("headgate_backend_ready", *labels) == 1
        assert watch.exposition.value("headgate_backend_evidence_ok", *labels) == 1
        assert watch.exposition.value("headgate_probe_seconds", "small") == 1


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (answers(500, {"error": {"message": "EngineDeadError"}}), "/v1/chat/completions answered 500"),
        (answers(503), "answered 503"),
        (answers(401), "answered 401"),
        (answers(200, {"choices": []}), "200 without a choice"),
        (answers(200, b"Ollama is running"), "200 without a choice"),
        (answers(404), "/v1/chat/completions answered 404"),
        (answers(302, b"", "location: http://127.0.0.1:1/"), "answered 302"),
        (answers(200, b" " * (2 * 1024 * 1024)), "larger than"),
        (closes, "RemoteProtocolError"),
    ],
)
async def test_unready_and_why(watch: Watch, act: Act, message: str) -> None:
    async with RealReplica(act) as replica:
        await watch.of(backend(replicas=[replica.url]))
        assert watch.states == [("small", False, True)]
        assert message in watch.messages[0]
        assert not watch.prober.is_ready("small")
        assert watch.exposition.value("headgate_backend_ready", "small", replica.url) == 0


async def test_nobody_there(watch: Watch) -> None:
    await watch.of(backend(replicas=[await refused_url()]))
    assert watch.states == [("small", False, True)]
    assert "ConnectError" in watch.messages[0]


async def test_an_engine_that_died_behind_a_living_front(watch: Watch) -> None:
    """vLLM goes on serving `/v1/models` after its engine is gone; only a prompt tells."""
    alive = by_path(models=answers(200, {"data": [{"id": "m"}]}), chat_completions=well)
    dead = by_path(models=answers(200, {"data": [{"id": "m"}]}), chat_completions=answers(500))
    async with RealReplica(alive, dead) as replica:
        await watch.of(backend(replicas=[replica.url]))
        assert watch.states == [("small", True, True)]
        watch.again()
        await watch.probed()
        assert watch.states == [("small", False, True)]


async def test_silence_is_bounded_by_first_token(watch: Watch) -> None:
    async with RealReplica(hangs) as replica:
        await watch.of(backend(replicas=[replica.url], timeouts={"first_token": 0.05}))
        assert watch.states == [("small", False, True)]
        assert "within 0.05 s" in watch.messages[0]


@pytest.mark.key("backends[].readiness.every")
async def test_probed_again_and_again_and_told_only_what_is_new(watch: Watch) -> None:
    async with RealReplica(well, well, answers(500), answers(500), well) as replica:
        await watch.of(backend(replicas=[replica.url], readiness={"every": 7}))
        for _ in range(4):
            watch.again()
            await watch.probed()
        assert [watch.changes.get_nowait()[0][1] for _ in range(watch.changes.qsize())] == [True, False, True]
        assert watch.pauses == [7.0, 7.0, 0.5, 1.0, 7.0]  # one that is not ready is asked again sooner
        assert len(replica.seen) == 5


@pytest.mark.parametrize(
    ("acts", "path"),
    [
        ({"completions": well}, "/v1/completions"),
        ({"embeddings": answers(200, {"data": [{"embedding": [0.5]}]})}, "/v1/embeddings"),
        ({"chat_completions": answers(400, {"error": "no chat template"}), "completions": well}, "/v1/completions"),
        ({"chat_completions": answers(501), "completions": answers(501), "embeddings": answers(200, {"data": [{}]})}, "/v1/embeddings"),
    ],
)
async def test_servers_without_chat_are_asked_where_they_answer(watch: Watch, acts: dict[str, Act], path: str) -> None:
    async with RealReplica(by_path(**acts)) as replica:
        await watch.of(backend(replicas=[replica.url]))
        assert watch.states == [("small", True, True)]
        assert replica.seen[-1].path == path
        before = len(replica.seen)
        watch.again()
        await watch.probed()
        assert [seen.path for seen in replica.seen[before:]] == [path], "and there first, the next time"


@pytest.mark.key("backends[].evidence")
@pytest.mark.parametrize(
    ("declared", "act", "ok", "message"),
    [
        ("logprobs", answers(200, WITH_LOGPROBS), True, ""),
        ("logits", answers(200, WITH_LOGITS), True, ""),
        ("logprobs", answers(200, WITH_LOGITS), False, "these are logits"),
        ("logits", answers(200, WITH_LOGPROBS), False, "these are log-probabilities"),
        ("logprobs", well, False, "no logprobs"),
        ("none", answers(200, WITH_LOGITS), True, ""),
    ],
)
async def test_declared_evidence_is_checked(watch: Watch, declared: str, act: Act, ok: bool, message: str) -> None:
    async with RealReplica(act) as replica:
        await watch.of(backend(replicas=[replica.url], evidence=declared))
        assert watch.states == [("small", True, ok)], "it serves on, whatever its evidence is"
        assert message in watch.messages[0]
        assert ("logprobs" in replica.seen[0].json) == (declared != "none")


async def test_a_server_that_rejects_logprobs_is_ready_without_them(watch: Watch) -> None:
    async def no_logprobs(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await (answers(400) if "logprobs" in seen.json else well)(seen, writer)

    async with RealReplica(no_logprobs) as replica:
        await watch.of(backend(replicas=[replica.url], evidence="logprobs"))
        assert watch.states == [("small", True, False)]
        assert len(replica.seen) == 2


async def test_evidence_that_comes_back(watch: Watch) -> None:
    async with RealReplica(answers(200, WITH_LOGPROBS), well, closes, answers(200, WITH_LOGPROBS)) as replica:
        await watch.of(backend(replicas=[replica.url], evidence="logprobs"))
        seen = [watch.states[0][1:]]
        for _ in range(3):
            watch.again()
            await watch.probed()
            seen.append(watch.states[0][1:])
        assert seen == [(True, True), (True, False), (False, False), (True, True)]


@pytest.mark.key("backends[].warm_up.prompts")
async def test_warm_up_comes_before_ready_and_only_then(watch: Watch) -> None:
    release = asyncio.Event()

    async def slow(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await release.wait()
        return await well(seen, writer)

    async with RealReplica(well, slow, well) as replica:
        watch.prober.watch([backend(replicas=[replica.url], warm_up={"prompts": ["one", "two"]})])
        while len(replica.seen) < 2:
            await replica.arrived.wait()
            replica.arrived.clear()
        assert watch.states == []
        release.set()
        await watch.probed()
        assert watch.states == [("small", True, True)]
        assert [seen.json["messages"][0]["content"] for seen in replica.seen] == ["ping", "one", "two"]
        watch.again()
        await watch.probed()
        assert len(replica.seen) == 4, "a replica that stays ready is warm"


@pytest.mark.key("backends[].warm_up.for")
async def test_warm_up_has_an_end(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    async with RealReplica(well, hangs) as replica:
        with caplog.at_level(logging.WARNING):
            await watch.of(backend(replicas=[replica.url], warm_up={"prompts": ["one"], "for": 0.05}))
        assert watch.states == [("small", True, True)]
        assert "warm-up was not done within 0.05 s" in caplog.text


async def test_a_replica_that_fails_its_warm_up_is_not_ready(watch: Watch) -> None:
    async with RealReplica(well, answers(500)) as replica:
        await watch.of(backend(replicas=[replica.url], warm_up={"prompts": ["one"]}))
        assert watch.states == [("small", False, True)]
        assert "warm-up prompt" in watch.messages[0]


async def test_one_probe_of_a_replica_at_a_time(watch: Watch) -> None:
    async with RealReplica(hangs) as replica:
        watch.prober.watch([backend(replicas=[replica.url])])
        await replica.arrived.wait()
        second = asyncio.create_task(watch.prober.probe_once())
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(replica.seen) == 1
        second.cancel()


async def test_probe_once_waits_for_all(watch: Watch) -> None:
    async with RealReplica(well) as good, RealReplica(answers(500)) as bad:
        await watch.of(backend(replicas=[good.url, bad.url]))
        await watch.prober.probe_once()
        assert (len(good.seen), len(bad.seen)) == (2, 2)


async def test_watching_another_policy(watch: Watch) -> None:
    async with RealReplica(well) as one, RealReplica(well) as two:
        first, second = backend(name="one", replicas=[one.url]), backend(name="two", replicas=[two.url])
        await watch.of(first)
        watch.prober.watch([first, second])
        await watch.probed()
        assert watch.states == [("one", True, True), ("two", True, True)]
        assert len(one.seen) == 1, "what is known is kept"
        assert watch.changes.qsize() == 2
        watch.prober.watch([second])
        assert watch.changes.qsize() == 3, "what is no longer watched is no longer told"
        assert watch.states == [("two", True, True)]
        assert not watch.prober.is_ready("one")
        assert sum(watch.exposition.values("headgate_backend_ready").values()) == 1


async def test_two_definitions_of_a_backend_while_a_policy_is_prepared(watch: Watch) -> None:
    """The new one is what a reload waits for; the old one's replicas serve on meanwhile."""

    async def by_model(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await (well if seen.json["model"] == "old" else answers(404))(seen, writer)

    async with RealReplica(by_model) as replica:
        old, new = (backend(replicas=[replica.url], model=model) for model in ("old", "new"))
        await watch.of(old)
        watch.prober.watch([old, new])
        await watch.probed()
        assert not watch.prober.is_ready("small")
        assert watch.states == [("small", True, True)]
        watch.prober.watch([new])
        assert watch.states == [("small", False, True)]


async def test_a_replica_that_stays_silent_is_unready_before_its_first_probe_ends(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.upstream.probe.SILENT_MAX_S", 0.01)
    async with RealReplica(hangs) as replica:
        watch.prober.watch([backend(replicas=[replica.url])])
        assert watch.states == []
        assert (await asyncio.wait_for(watch.changes.get(), 5)) == [("small", False, True)]
        assert "yet" in watch.messages[0]


async def test_a_probe_that_raises_is_not_the_last(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Callable[..., bytes]:
        raise RuntimeError("a bug")

    async with RealReplica(well) as replica:
        with monkeypatch.context() as patch:
            patch.setattr("gateway.upstream.ping.request_body", broken)
            await watch.of(backend(replicas=[replica.url]))
        assert watch.states == [("small", False, True)]
        watch.again()
        await watch.probed()
        assert watch.states == [("small", True, True)]
