"""The openai SDK for JavaScript against a gateway, on Node."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gateway import gateway
from tests.standin import Conversation, chunk, completion, fails, speaks, standin

HERE = Path(__file__).parent / "npm"
ARGUMENTS = '{"city": "Zürich"}'
POLICY = """
version: 1
backends:
  - {{name: small, kind: openai, replicas: ["{url}"], model: tiny, retries: {{attempts: 1}}, breaker: {{failures: 1000}}}}
  - {{name: tools, kind: openai, replicas: ["{url}"], model: tools}}
  - {{name: full, kind: openai, replicas: ["{url}"], model: full, retries: {{attempts: 1}}}}
  - {{name: broken, kind: openai, replicas: ["{url}"], model: broken}}
  - {{name: dies, kind: openai, replicas: ["{url}"], model: dies}}
routes:
  - {{name: chat, matches: [{{models: [chat]}}], backend: small}}
  - {{name: tools, matches: [{{models: [tools]}}], backend: tools}}
  - {{name: full, matches: [{{models: [full]}}], backend: full}}
  - {{name: broken, matches: [{{models: [broken]}}], backend: broken}}
  - {{name: dies, matches: [{{models: [dies]}}], backend: dies}}
"""


async def run(*command: str, **environment: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command in the SDK's folder."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=HERE, env=os.environ | environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 90)
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def node() -> str:
    """Node, with the locked SDK installed beside the script (once; git ignores it)."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found is None or npm is None:
        pytest.skip("there is no node, or no npm")
    installed, locked = HERE / "node_modules" / ".package-lock.json", HERE / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < locked.stat().st_mtime:
        code, _, err = await run(npm, "ci")
        if code:
            pytest.skip(f"npm cannot install the SDK here: {err.strip().splitlines()[-1]}")
        installed.touch()
    return found


async def by_model(c: Conversation) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
    match c.asked.json["model"]:
        case "tiny":
            await speaks("hello from here")(c)
        case "tools" if c.asked.json.get("stream"):
            part = chunk()
            part["choices"][0]["delta"] = {"role": "assistant", "content": None, "tool_calls": [call]}
            await c.start_stream()
            await c.event(part)
            await c.event(chunk(finish="tool_calls"))
            await c.end_stream()
        case "tools":
            value = completion()
            value["choices"][0] |= {
                "message": {"role": "assistant", "content": None, "tool_calls": [call]},
                "finish_reason": "tool_calls",
            }
            await c.json(value)
        case "full":
            await fails(429, headers="retry-after: 1\r\n")(c)
        case "broken":
            await fails(500)(c)
        case "dies":
            await c.start_stream()
            await c.event(chunk("one"))
            c.reset()


async def test_the_sdk_for_javascript(node: str) -> None:
    async with standin(by_model) as backend, gateway(POLICY.format(url=backend.url)) as running:
        code, out, err = await run(node, "ask.js", BASE_URL=f"{running.data}/v1", API_KEY="any")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    tool = {"name": "weather", "arguments": ARGUMENTS}
    assert found.pop("errors") == {
        "unknown": ["NotFoundError", 404, "model_not_found", True],
        "full": ["RateLimitError", 429, "backend_rate_limited", True],
        "broken": ["InternalServerError", 502, "backend_error", True],
        "dies": "backend dies broke off in the middle of its answer",
    }
    assert found.pop("tool_streamed")["arguments"] == ARGUMENTS
    assert found.pop("streamed").split() == ["hello", "from", "here"]
    assert found == {
        "chat": "hello from here",
        "total_tokens": 10,
        "backend": "small",
        "tool": tool,
        "models": ["broken", "chat", "dies", "full", "tools"],
        "model": "chat",
        "died_after": "one",
    }


def test_the_lock_file_names_no_registry() -> None:
    """It works with whatever registry is configured; the hashes say what must come."""
    packages = json.loads((HERE / "package-lock.json").read_text())["packages"]
    assert packages
    for name, package in packages.items():
        assert "resolved" not in package
        assert not name or package["integrity"].startswith("sha512-")
