"""The golden policies: what each file under `tests/golden/policies` must come to, as text.

`python -m tests.policies.golden` writes the texts anew, for a reader to judge in the diff.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import msgspec

from policies.compile import compile_policy, decode, encode
from policies.errors import PolicyError
from policies.load import Loaded, load
from policies.plan import Assess, Assessment, Call, CallError, Features, Outcome, Plan, Race
from policies.snapshot import Decision, Snapshot

FOLDER = Path(__file__).parent.parent / "golden" / "policies"
NAMED = FOLDER.parent / "files"
FILES = {
    "keys/acme.sha256": sha256(b"acme's key").hexdigest().encode() + b"\n",
    "keys/vllm": b"hunter2\n",
    "keys/empty": b"\n",
    "keys/two-lines": b"hunter2\nhunter3\n",
} | {str(path.relative_to(NAMED)): path.read_bytes() for path in sorted(NAMED.glob("*s/*.*"))}
ENVIRONMENT = {
    "VLLM_KEY": "hunter2",
    "ALERT_URL": "https://hooks.example/T0/hunter2",
    "ACME_SHA256": sha256(b"acme's key").hexdigest(),
    "GLOBEX_SHA256": sha256(b"globex' key").hexdigest().upper(),
}


def read(path: str, files: Mapping[str, bytes] = FILES) -> bytes:
    if path not in files:
        raise FileNotFoundError(2, "No such file or directory", path)
    return files[path]


def load_text(text: bytes | str, files: Mapping[str, bytes] = FILES) -> Loaded:
    raw = text.encode() if isinstance(text, str) else text
    return load(raw, name="policy.yaml", read=lambda path: read(path, files), env=ENVIRONMENT)


def names(kind: str) -> list[str]:
    return sorted(path.stem for path in (FOLDER / kind).glob("*.yaml"))


def came_to(kind: str, name: str) -> str:
    """What the file comes to: its problems, or its warnings, decisions and canonical form."""
    text = (FOLDER / kind / f"{name}.yaml").read_bytes()
    try:
        loaded = load_text(text)
    except PolicyError as error:
        return f"{error}\n"
    snapshot = compile_policy(decode(encode(loaded.policy)), loaded.version, loaded.files)
    asked = [line.removeprefix("#? ") for line in text.decode().splitlines() if line.startswith("#? ")]
    lines = [f"version {loaded.version}", *map(str, loaded.warnings), ""]
    lines += [f"{request}: {_decided(snapshot, request)}" for request in asked]
    return "\n".join(lines) + "\n\n" + msgspec.json.format(loaded.canonical, indent=2).decode() + "\n"


def _decided(snapshot: Snapshot, request: str) -> str:
    words = dict(word.split("=", 1) for word in request.split())
    key = next((key for key in snapshot.policy.keys if key.name == words.get("key")), None)
    features = Features(
        exchange_id="x-1",
        endpoint="chat",
        model=words["model"],
        key=words.get("key"),
        labels=key.labels if key else {},
        headers={name.removeprefix("header."): value for name, value in words.items() if name.startswith("header.")},
        user=words.get("user"),
        prompt_chars=int(words.get("chars", "0")),
    )
    decision = snapshot.decide(features)
    if not isinstance(decision, Decision):
        return decision.why
    labels = "".join(f", {name} {value}" for name, value in decision.segments)
    unit = f", unit {decision.unit}" if decision.unit is not None else ", no unit" if decision.route.has_unit else ""
    return f"route {decision.route.name} asks {', then '.join(calls_made(decision.plan))}{labels}{unit}"


def calls_made(plan: Plan) -> list[str]:
    """What a plan asks while each backend refuses the connection, and where a guard stands, of a request that is out of distribution."""
    made: list[str] = []
    number = 0
    result: Outcome | Assessment | None = None
    try:
        while True:
            verb = plan.send(result) if result else next(plan)
            if isinstance(verb, Assess):
                made.append(f"detector {verb.detector}")
                result = Assessment("ok", 9.0, 1.0, False)
                continue
            calls = verb.calls if isinstance(verb, Race) else (verb,)
            made.append(" beside ".join(call.backend for call in calls))
            result = Outcome(number, verb.backend if isinstance(verb, Call) else calls[-1].backend, CallError("connect", "refused"))
            number += len(calls)
    except StopIteration:
        return made


if __name__ == "__main__":
    for kind in ("wrong", "right"):
        for name in names(kind):
            (FOLDER / kind / f"{name}.txt").write_text(came_to(kind, name))
            print(f"{kind}/{name}", file=sys.stderr)
