"""Laws of the policy language, over generated policies and over text that is no policy."""

import json
import random
from typing import Any

import jsonschema
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from policies.canonical import canonical
from policies.compile import compile_policy, decode, encode
from policies.diff import diff
from policies.errors import PolicyError
from policies.jsonschema import json_schema
from policies.plan import Assess, Call, Features, Race
from policies.snapshot import Decision, NoRoute
from tests.policies.building import ACME, GLOBEX
from tests.policies.golden import FOLDER, load_text

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Co", "Cn", "Zl", "Zp"]), min_size=1, max_size=12).filter(
    lambda text: not text.endswith("*") and "${" not in text
)
DURATIONS = st.builds(lambda n, unit: f"{n}{unit}", st.integers(1, 500), st.sampled_from(["s", "m", "h", "d"]))
SIZES = st.builds(lambda n, unit: f"{n}{unit}", st.integers(1, 500), st.sampled_from(["KiB", "MiB", "MB"]))
PERCENTS = st.floats(0, 100)
LABELS = st.sampled_from(["tenant", "tier", "team"])


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def several(values: st.SearchStrategy[Any], most: int = 3, least: int = 1) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=least, max_size=most, unique_by=str)


def backends(name: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "name": st.just(name),
            "kind": st.sampled_from(["vllm", "ollama", "openai"]),
            "replicas": several(
                st.from_regex(r"https?://[a-z]{1,8}(:[1-9][0-9]{1,3})?(/[a-z]{2,5}x)?", fullmatch=True).filter(str.islower)
            ),
            "model": TEXTS,
        },
        optional={
            "balance": st.sampled_from(["least_outstanding", "prefix_hash", "round_robin"]),
            "api_key": st.just("${env:VLLM_KEY}"),
            "evidence": st.sampled_from(["none", "logprobs"]),
            "timeouts": some(total=DURATIONS),
            "retries": some(
                attempts=st.integers(1, 10),
                retry_on=several(st.sampled_from(["connect", "429", "503"]), least=0),
                backoff=st.sampled_from(["0s", "100ms", "5s"]),
                budget_percent=PERCENTS,
            ),
            "breaker": some(failures=st.integers(1, 1000), open_for=DURATIONS),
            "concurrency": some(limit=st.integers(1, 1000), queue=st.integers(0, 1000), queue_for=DURATIONS),
            "readiness": some(prompt=TEXTS, every=DURATIONS, max_tokens=st.integers(1, 100)),
            "warm_up": st.fixed_dictionaries({"prompts": several(TEXTS), "for": DURATIONS}),
            "request": some(deny=several(st.sampled_from(["a", "b"])), allow=several(st.sampled_from(["c", "d"]))),
            "price": some(input=st.floats(0, 1e3), output=st.floats(0, 1e3), currency=st.just("EUR"), per_tokens=st.integers(1, 10**6)),
        },
    )


MATCHES = st.fixed_dictionaries(
    {"models": several(st.sampled_from(["m1", "m2", "m3", "ünï", "on", "1"]))},
    optional={
        "keys": st.dictionaries(LABELS, several(TEXTS), max_size=2),
        "headers": st.dictionaries(st.sampled_from(["x-tier", "X-Lane"]), several(TEXTS), max_size=2),
    },
)


RULES = st.recursive(
    st.one_of(
        st.fixed_dictionaries({"score": st.sampled_from(["mean_logprob", "min_logprob"]), "below": st.floats(-99, 0)}),
        st.fixed_dictionaries({"score": st.sampled_from(["perplexity", "entropy"]), "above": st.floats(1, 99)}),
        st.fixed_dictionaries({"score": st.just("quantile_logprob"), "q": st.floats(0, 1), "below": st.floats(-99, 0)}),
    ),
    lambda inner: st.dictionaries(st.sampled_from(["any", "all"]), several(inner), min_size=1, max_size=1),
    max_leaves=4,
)
HOLDS = st.one_of(
    st.just("all"),
    st.fixed_dictionaries({"tokens": st.integers(1, 4096)}, optional={"for": st.sampled_from(["1ms", "400ms", "10m"])}),
)


@st.composite
def cascades(draw: st.DrawFn, names: list[str]) -> dict[str, Any]:
    """The last of the names is its last stage."""
    choice = st.sampled_from(["serve", "defer"])
    stages = [
        {"backend": name, "hold": draw(HOLDS), "defer_when": draw(RULES)} | draw(some(when_unscored=choice, tokens=st.just("all")))
        for name in names[:-1]
    ]
    more = draw(
        some(
            when_last_fails=st.sampled_from(["fail", "serve_held"]),
            defer_limit=st.fixed_dictionaries({"percent": st.integers(1, 99)}, optional={"window": st.sampled_from(["1s", "1d"])}),
            audit=some(accepted_percent=PERCENTS, deferred_percent=PERCENTS, agree=st.sampled_from(["exact", "label"])),
        )
    )
    return {"stages": stages, "last": names[-1]} | more


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    """Valid policies, as the values that the file holds."""
    names = draw(several(NAMES.filter(lambda name: name != "spare"), most=4, least=2))
    segments = [
        {"name": "tenant", "from": "key:tenant", "values": draw(several(TEXTS))},
        {"name": "length", "from": "prompt_chars", "edges": sorted(draw(st.sets(st.integers(1, 10_000), min_size=1, max_size=5)))},
    ]
    routes = []
    for name in draw(several(NAMES, most=4)):
        answerer = draw(
            st.one_of(
                st.fixed_dictionaries({"backend": st.sampled_from(names)}),
                st.fixed_dictionaries({"failover": several(st.sampled_from(names), most=4, least=2)}),
                st.fixed_dictionaries({"cascade": cascades(names)}),
            )
        )
        more = draw(some(segments=several(st.sampled_from(["tenant", "length"])), keep_alive_after=DURATIONS))
        if draw(st.booleans()):
            more["guard"] = {"detector": "guard", "when_ood": "to_last" if "cascade" in answerer else "flag", "when_unscored": "refuse"}
        if draw(st.booleans()):
            more["hedge"] = {"after": draw(st.sampled_from(["p50", "p99", "30ms", "2s"])), "to": "spare"}
        units = draw(some(unit=several(st.sampled_from(["key", "body:user", "header:x-user"]))))
        routes.append({"name": name, "matches": draw(several(MATCHES)), **answerer, **more, **units})
    keys = []
    for name, digest in zip(draw(several(NAMES, most=2, least=0)), (ACME, GLOBEX), strict=False):
        more = draw(
            some(
                labels=st.dictionaries(LABELS, TEXTS, max_size=2),
                routes=several(st.sampled_from([r["name"] for r in routes])),
                debug=st.booleans(),
            )
        )
        keys.append({"name": name, "sha256": digest, **more})
    rest = draw(
        some(
            server=some(body_max=SIZES, deadline=DURATIONS, drain=DURATIONS, anonymous=st.booleans()),
            records=some(
                keep_for=DURATIONS, content=some(store=st.booleans(), sample_percent=PERCENTS, redact=st.just(["email", "regex:a+"]))
            ),
        )
    )
    return {
        "version": 1,
        "backends": [*(draw(backends(name)) | {"evidence": "logprobs"} for name in names), draw(backends("spare"))],
        "detectors": [{"name": "guard", "artifact": "detectors/support.npz"}],
        "segments": segments,
        "routes": routes,
        "keys": keys,
        **rest,
    }


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same values with the keys of every mapping in another order."""
    if isinstance(value, dict):
        keys = list(value)
        chance.shuffle(keys)
        return {key: shuffled(value[key], chance) for key in keys}
    return [shuffled(item, chance) for item in value] if isinstance(value, list) else value


def block(value: Any) -> list[str]:
    """Lines of YAML's block style. (PyYAML's emitter writes YAML 1.1, where 0E0 is text.)"""
    if isinstance(value, dict) and value:
        return [line for key, held in value.items() for line in (f"{json.dumps(key)}:", *(f"  {inner}" for inner in block(held)))]
    if isinstance(value, list) and value:
        return [f"{'- ' if number == 0 else '  '}{line}" for item in value for number, line in enumerate(block(item))]
    return [json.dumps(value, ensure_ascii=False)]


PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
LAW = settings(phases=PHASES, max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@LAW
@given(policies())
def test_every_valid_policy_loads_compiles_and_decides(values: dict[str, Any]) -> None:
    found = load_text(json.dumps(values, ensure_ascii=False))
    assert decode(encode(found.policy)) == found.policy
    snapshot = compile_policy(decode(encode(found.policy)), found.version, found.files)
    for model in ("m1", "on", "1", "none of them"):
        for key in (None, *found.policy.keys):
            features = Features("x", "chat", model, key=key.name if key else None, labels=key.labels if key else {})
            decision = snapshot.decide(features)
            assert isinstance(decision, Decision | NoRoute)
            if isinstance(decision, Decision):
                assert model in snapshot.models(key)
                verb = next(decision.plan)
                assert isinstance(verb, Assess) is (snapshot.policy.routes[decision.route.index].guard is not None)
                calls = verb.calls if isinstance(verb, Race) else (verb,) if isinstance(verb, Call) else ()
                assert {call.backend for call in calls} <= snapshot.backends.keys()
    assert diff(found.policy, found.policy) == []


@LAW
@given(policies())
def test_the_canonical_form_is_its_own_canonical_form(values: dict[str, Any]) -> None:
    """Read back it is the same policy, but for the secrets: those are hashed once more."""
    found = load_text(json.dumps(values, ensure_ascii=False))
    again = decode(found.canonical)
    bare = found.canonical.replace(b"hunter2", b"")
    assert bare == found.canonical
    if not values["keys"] and not any("api_key" in backend for backend in values["backends"]):
        assert canonical(again) == found.canonical


@LAW
@given(policies(), st.randoms(use_true_random=False), st.booleans())
def test_layout_and_order_of_keys_do_not_change_the_version(values: dict[str, Any], chance: random.Random, flow: bool) -> None:
    plain = json.dumps(values, ensure_ascii=False)
    other = shuffled(values, chance)
    text = json.dumps(other, ensure_ascii=False, indent=chance.choice([1, 4])) if flow else "\n".join(block(other))
    commented = "# a comment\n" + text.replace("\n", "  # and another\n")
    assert load_text(plain).version == load_text(commented).version


@LAW
@given(policies())
def test_what_loads_is_valid_by_the_json_schema(values: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(json_schema()).validate(values)


def loads_or_says_why(text: bytes) -> None:
    try:
        load_text(text)
    except PolicyError as error:
        problems = error.problems
    else:
        return
    assert problems
    marks = [(problem.line, problem.column) for problem in problems]
    assert marks == sorted(marks)
    assert min(min(mark) for mark in marks) >= 1
    assert all("\n" not in str(problem) for problem in problems)


@settings(phases=PHASES, max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_any_bytes_load_or_are_told_why_not(text: bytes) -> None:
    loads_or_says_why(text)


WORDS = ["{", "}", "[", "]", ":", ": ", ",", "- ", "\n", "\n  ", "&a ", "*a", "!!str ", "'", '"', "|", ">", "? ", "#", "---\n", "null", "1",
         "${env:X}", "\t", "\x00", "<<", "routes", "\u2028", "\ufeff", "é"]  # fmt: skip
EXAMPLES = [path.read_bytes() for path in sorted(FOLDER.glob("right/*.yaml"))]


@settings(phases=PHASES, max_examples=400, deadline=None)
@given(
    st.sampled_from(EXAMPLES),
    st.lists(st.tuples(st.integers(0, 4_000), st.integers(0, 30), st.sampled_from(WORDS)), min_size=1, max_size=4),
)
def test_a_mutilated_policy_loads_or_is_told_why_not(text: bytes, cuts: list[tuple[int, int, str]]) -> None:
    for place, length, word in cuts:
        place %= len(text) + 1
        text = text[:place] + word.encode() + text[place + length :]
    loads_or_says_why(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(phases=PHASES, max_examples=80, deadline=None)
@given(policies(), st.randoms(use_true_random=False), JSON)
def test_any_value_in_any_place_loads_or_is_told_why_not(values: dict[str, Any], chance: random.Random, odd: Any) -> None:
    place: Any = values
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = chance.choice(keys)
        if not isinstance(place[key], dict | list) or not place[key] or chance.random() < 0.3:
            place[key] = odd
            break
        place = place[key]
    loads_or_says_why(json.dumps(values, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass"))
