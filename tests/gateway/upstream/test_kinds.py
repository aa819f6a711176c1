from __future__ import annotations

from typing import Any, get_args

import pytest

from gateway.protocol.body import decode
from gateway.upstream.kinds import KINDS, denied, objection, refused, replica_urls, watched
from policies.schema import Kind
from tests.gateway.upstream.rig import backend


def chat(fields: str = "", endpoint: Any = "chat") -> Any:
    return decode(b'{"model":"m","messages":[]%b}' % (f",{fields}" if fields else "").encode(), endpoint)


def test_every_kind_has_its_facts():
    assert KINDS.keys() == set(get_args(Kind))


@pytest.mark.parametrize(
    "name", ["priority", "request_id", "chat_template", "kv_transfer_params", "prompt_embeds", "guided_regex", "structured_outputs"]
)
def test_vllm_fields_that_reach_others_or_the_servers_inside(name):
    assert denied(backend(kind="vllm"), {"model", name, "temperature"}) == name


def test_the_openai_format_is_never_denied():
    names = {"model", "messages", "n", "tools", "tool_choice", "response_format", "logprobs", "seed", "stop", "stream_options", "user"}
    for kind in get_args(Kind):
        assert denied(backend(kind=kind), names) is None


@pytest.mark.key("backends[].request.deny")
def test_deny_adds_to_the_list():
    it = backend(request={"deny": ["seed", "logit_bias"]})
    assert denied(it, {"model", "seed"}) == "seed"
    assert denied(it, {"model", "seed", "logit_bias"}) == "logit_bias"
    assert denied(it, {"model", "priority"}) == "priority"


@pytest.mark.key("backends[].request.allow")
def test_allow_takes_off_the_list():
    it = backend(request={"allow": ["guided_json"]})
    assert denied(it, {"guided_json"}) is None
    assert denied(it, {"guided_regex"}) == "guided_regex"


def test_what_the_policy_denies_it_cannot_also_allow():
    assert denied(backend(request={"allow": ["seed"], "deny": ["seed"]}), {"seed"}) == "seed"


def test_ollamas_model_is_everybodys():
    assert denied(backend(kind="ollama"), {"keep_alive"}) == "keep_alive"
    assert denied(backend(kind="vllm"), {"keep_alive"}) is None


@pytest.mark.key("backends[].kind")
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ('"n":2', "n"),
        ('"n":1', None),
        ('"tool_choice":"required"', "tool_choice"),
        ('"tool_choice":"none"', "tool_choice"),
        ('"tool_choice":{"type":"function","function":{"name":"f"}}', "tool_choice"),
        ('"tool_choice":"auto"', None),
        ('"tool_choice":null', None),
        ('"logit_bias":{"5":-100}', "logit_bias"),
        ('"max_completion_tokens":5', "max_completion_tokens"),
        ('"max_completion_tokens":5,"max_tokens":5', None),
        ('"max_tokens":5', None),
        ('"user":"u"', None),
    ],
)
def test_what_ollama_would_ignore_is_refused(fields, named):
    message = refused(backend(kind="ollama"), chat(fields))
    assert (message is None) if named is None else (message is not None and f"'{named}'" in message)
    assert refused(backend(kind="vllm"), chat(fields)) is None


def test_allow_lets_it_be_ignored():
    assert refused(backend(kind="ollama", request={"allow": ["max_completion_tokens"]}), chat('"max_completion_tokens":5')) is None


def test_embedded_replicas_are_on_the_loopback():
    assert replica_urls(backend(kind="embedded", replicas=[]), 7001) == ("http://127.0.0.1:7001",)
    assert replica_urls(backend(kind="embedded", replicas=[], evidence="logits"), 7001) == ("http://127.0.0.1:7001/logits",)
    assert replica_urls(backend(kind="vllm"), 7001) == ("http://a:1", "http://b:2")


@pytest.mark.key("backends[].client_logprobs")
@pytest.mark.parametrize(
    ("fields", "endpoint", "asks"),
    [
        ('"logprobs":true', "chat", True),
        ('"logprobs":false,"top_logprobs":0', "chat", False),
        ('"logprobs":null', "chat", False),
        ('"top_logprobs":2', "chat", True),
        ('"logprobs":0', "completions", True),
        ('"logprobs":null', "completions", False),
        ('"top_logprobs":2', "responses", True),
        ('"include":["message.output_text.\\u006cogprobs"]', "responses", True),
        ('"include":["reasoning.encrypted_content"]', "responses", False),
        ('"include":null', "responses", False),
        ('"include":{"message.output_text.logprobs":1}', "responses", False),
        ("", "messages", False),
    ],
)
def test_logits_are_never_given_to_a_client_for_its_logprobs_unless_the_policy_says_so(fields, endpoint, asks):
    body = chat(fields, endpoint)
    found = objection(backend(evidence="logits"), body)
    assert not asks or not watched(backend(evidence="logits")).isdisjoint(body.names)
    assert (found is not None and found.status == 400 and found.request_at_fault) is asks
    assert (found is None) is not asks
    assert objection(backend(evidence="logits", client_logprobs="pass"), body) is None
    assert objection(backend(evidence="logprobs"), body) is None


@pytest.mark.parametrize("kind", get_args(Kind))
def test_whatever_could_be_objected_to_is_watched(kind):
    it = backend(kind=kind, request={"deny": ["seed"]})
    fields = [*KINDS[kind].denied, *KINDS[kind].ignores, "seed"]
    for name in fields:
        body = chat(f'"{name}":[7]') if name not in ("n", "max_completion_tokens") else chat(f'"{name}":7')
        if objection(it, body) is not None:
            assert name in watched(it)
    assert objection(it, chat('"seed":1')) is not None
    assert watched(it).isdisjoint({"model", "messages", "temperature", "stream", "max_tokens", "response_format", "tools"})
