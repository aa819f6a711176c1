"""How a gateway ends, in order and not, what is kept of it; and its connections under TLS."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import ssl
import subprocess
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.e2e.gateway import Gateway, chat, children, events, eventually, gateway, said
from tests.e2e.load import died, load
from tests.standin import Conversation, chunk, speaks, standin

POLICY = """
version: 1
server: {{drain: {drain}}}
backends:
  - {{name: small, kind: openai, replicas: ["{url}"], model: tiny}}
routes:
  - {{name: main, matches: [{{models: [chat]}}], backend: small}}
"""


async def speaks_slowly(c: Conversation) -> None:
    """A stream of half a second; one that is asked to hang goes on until it is cut."""
    if not c.asked.json.get("stream"):
        await speaks("hello")(c)
        return
    await c.start_stream()
    for word in range(5):
        await c.event(chunk(f"{word} "))
        await asyncio.sleep(0.1)
    if "hang" in c.asked.body.decode():
        await c.until_closed()
        return
    await c.event(chunk("", "stop"))
    await c.end_stream()


@pytest.mark.parametrize("workers", [1, 2])
async def test_workers_are_replaced_under_load_and_nobody_notices(workers: int) -> None:
    async with standin(speaks_slowly) as backend:
        policy = POLICY.format(url=backend.url, drain="5s")
        async with gateway(policy, "--workers", str(workers)) as running:
            before = running.pids("worker")
            async with load(running.data, clients=8) as kept, load(running.data, clients=4, keep=False) as fresh:
                await kept.more(30)
                running.process.send_signal(signal.SIGUSR2)

                async def replaced() -> bool:
                    now = running.pids("worker")
                    return len(now) == workers and not set(now) & set(before)

                await eventually(replaced, 40)
                await kept.more(30)
                await fresh.more(20)
            kept.all_good()
            fresh.all_good()
            asked = [*kept.exchange_ids, *fresh.exchange_ids]
            await running.until_stored(asked)
            assert sorted(record.exchange_id for record in running.stored()) == sorted(asked), "exactly once"
            await running.metric("headgate_workers", workers)
            assert await running.count("headgate_worker_restarts_total") == 0, "nobody died"

            async def counted() -> bool:
                return await running.count("headgate_requests_total") == len(asked)

            await eventually(counted)


@pytest.mark.key("server.drain")
async def test_sigterm_under_load_lets_end_what_can_and_tells_what_cannot(tmp_path: Path) -> None:
    async with standin(speaks_slowly) as backend:
        policy = POLICY.format(url=backend.url, drain="2s")
        async with gateway(policy, "--workers", "2", folder=str(tmp_path)) as running:
            async with (
                load(running.data, clients=8) as clients,
                load(running.data, clients=2, streams=[True], body={"content": "please hang"}) as hanging,
            ):
                await clients.more(60)
                await eventually(lambda: all_streaming(backend.generating))
                told_at = time.monotonic()
                running.process.send_signal(signal.SIGTERM)
                clients.stopping = hanging.stopping = True
                await eventually(lambda: refuses(running))  # no load balancer finds it ready any more
                assert await running.gone() == 0
            assert 1.9 < time.monotonic() - told_at < 10
        assert not [str(each) for each in clients.bad if each.started < told_at]
        assert not [str(each) for each in clients.bad if each.status]
        for each in hanging.asked:
            assert (each.status, each.broke, said(each.body)) == (200, "", "0 1 2 3 4 ")
            *_, error, done = events(each.body)
            assert (error["error"]["code"], done) == ("shutting_down", "[DONE]")
        stored = {record.exchange_id: record.code for record in running.stored()}
        assert {each.exchange_id: 200 for each in clients.done if each.good} | dict.fromkeys(hanging.exchange_ids, 503) == stored
        async with gateway(policy, folder=str(tmp_path)) as again:
            shown = await again.ask_admin(f"/exchanges/{hanging.exchange_ids[0]}")
            assert (shown["code"], shown["error"]) == (503, "the gateway is shutting down")


async def refuses(running: Gateway) -> bool:
    try:
        async with running.client() as client:
            await client.get("/health/ready")
    except httpx.ConnectError:
        return True
    return False


async def all_streaming(generating: int) -> bool:
    return generating > 2


async def many_stored(running: Gateway) -> set[str]:
    known = {each["exchange_id"] for each in (await running.ask_admin("/exchanges?limit=1000"))["exchanges"]}
    return known if len(known) > 50 else set()


async def test_everything_killed_leaves_a_whole_store_with_what_was_acknowledged(tmp_path: Path) -> None:
    async with standin(speaks("hello")) as backend:
        policy = POLICY.format(url=backend.url, drain="2s") + "records: {content: {store: true}}\n"
        async with gateway(policy, "--workers", "2", folder=str(tmp_path), check=False) as running:
            async with load(running.data, clients=8) as clients:
                await clients.more(200)
                acknowledged = await eventually(lambda: many_stored(running))
                pids = [running.process.pid, *children(running.process.pid)]
                clients.stopping = True
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
            await asyncio.gather(*map(died, pids))
            with closing(sqlite3.connect(running.state / "records.sqlite")) as store:
                assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            stored = {record.exchange_id for record in running.stored()}
            assert acknowledged <= stored
        async with gateway(policy, folder=str(tmp_path)) as again, again.client() as client:
            answer = await client.post("/v1/chat/completions", json=chat())
            await again.until_stored({*stored, answer.headers["x-headgate-exchange-id"]})


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A self-signed certificate for 127.0.0.1 and no name: (certificate, key)."""
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=gateway", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    return cert, key


async def test_tls_on_both_sides(certificate: tuple[str, str]) -> None:
    cert, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    text = POLICY + "  - {{name: wrong, matches: [{{models: [wrong]}}], backend: misnamed}}\n"
    async with standin(speaks("hello over there"), tls=context) as backend:
        named = backend.url.replace("127.0.0.1", "localhost")
        policy = text.format(url=backend.url, drain="2s").replace(
            "routes:", f'  - {{name: misnamed, kind: openai, replicas: ["{named}"], model: tiny}}\nroutes:'
        )
        options = ["--tls-cert", cert, "--tls-key", key, "--upstream-ca", cert]
        async with (
            gateway(policy, *options) as running,
            httpx.AsyncClient(base_url=running.data, verify=ssl.create_default_context(cafile=cert), timeout=30) as client,
        ):
            assert running.data.startswith("https://")
            whole = await client.post("/v1/chat/completions", json=chat())
            assert whole.json()["choices"][0]["message"]["content"] == "hello over there"
            streamed = await client.post("/v1/chat/completions", json=chat(stream=True))
            assert said(streamed.content).split() == ["hello", "over", "there"]
            large = await client.post("/v1/chat/completions", json=chat(content="x" * 5_000_000))
            assert large.status_code == 200
            assert len(backend.asked[-1].body) > 5_000_000
            # The certificate does not say localhost, so that replica is not asked.
            wrong = await client.post("/v1/chat/completions", json=chat(model="wrong"))
            assert wrong.status_code in (502, 503)
            with pytest.raises(httpx.ConnectError):
                async with httpx.AsyncClient(base_url=running.data) as stranger:
                    await stranger.get("/health/ready")
            assert (await client.get("/health/ready")).status_code == 200
