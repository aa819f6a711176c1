from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.cli.explain import from_json
from gateway.records.story import BAR, FIELD_CHARS_MAX, story, to_json
from tests.gateway.records.examples import AUDITED, CALL, DEFERRED, FAILED, RECORD, content, record

STORY = """\
exchange ex-1  2026-05-28 20:26:40 UTC  200 in 1.50 s

asked       chat for support, streamed, 812 B
request id  req-1
key         acme-prod
unit        user-7
route       support, by policy 3f9c2a
segments    tenant=acme, prompt_length=<200
trace       0af7651916cd43dd8448eb211c80319c (sampled)

calls, of 1.50 s   . waiting   - answering   = content   | commit
  1 big   [.                                       ]   100 us to 200 us   breaker_open: the breaker of every replica is open
  2 small [....-|==================================]   200 us to 1.50 s   ok
          try 1 at http://vllm-a:8000: 200 us to 2 ms, connect
          try 2 at http://vllm-b:8000: 102 ms to 1.50 s, ok
          head 180 ms, first content 220 ms, hold over 221 ms
          120 tokens in, 48 out, 0.00031 USD, finished: stop, model small-2026

served       by small (failover: the backends before it failed)
first token  after 222 ms
overhead     600 us of 1.50 s was no backend's
sent         8.9 KiB
tokens       120 in, 48 out
cost         0.00031 USD"""


def test_the_story_of_a_failover() -> None:
    assert "\n".join(story(RECORD)) == STORY


def test_the_story_of_a_cascade_says_why() -> None:
    text = "\n".join(story(DEFERRED))
    for line in (
        "guard       in distribution (score 1.25)",
        "scores of 24 tokens (ok): mean_logprob -0.8, min_logprob -3.5, entropy 0.75",
        "deferred: mean_logprob is -0.8 against -0.35",
        "  - tiny: passed over: an audit has disabled the cascade",
        "by big (low_confidence: the answers before it were not sure enough)",
    ):
        assert line in text
    held = replace(DEFERRED, findings=replace(DEFERRED.findings, low_confidence=True))  # type: ignore[type-var]
    assert "low: it was judged not good enough" in "\n".join(story(held))


def test_the_story_says_what_audits_found() -> None:
    lines = story(AUDITED)
    assert "audit: the deferred reply of small agrees with the answer" in lines
    found = lines.index("audit: big's reply to the same does not agree with the answer")
    assert lines[found + 1] == "  200 us to 1.50 s ok"
    assert any("0.00031 USD" in line for line in lines[found + 2 :])
    assert "audit: big's reply to the same was not compared with the answer: one of them is longer than is compared" in lines
    found = lines.index("audit: huge's reply to the same agrees with the answer")
    assert lines[found + 1] == "  big 100 us to 200 us breaker_open: the breaker of every replica is open"
    assert lines[found + 2] == "  huge 300 ms to 1.50 s ok"


def test_a_record_comes_back_from_its_json_as_it_was() -> None:
    for each in (RECORD, DEFERRED, AUDITED):
        assert from_json(json.loads(json.dumps(to_json(each)))) == each


def test_an_exchange_that_called_nobody() -> None:
    refused = record(calls=(), backend="", reason="", route="", key="", code=404, error="there is no model 'x'", committed=None)
    text = "\n".join(story(refused))
    for line in ("no backend was called", "served    by nobody", "error     there is no model 'x'", "none matched", "none (anonymous)"):
        assert line in text
    assert "tokens" not in text
    assert "cost" not in text


def test_a_request_whose_body_could_not_be_read() -> None:
    text = "\n".join(story(record(model="", stream=False, bytes_in=12, calls=(), backend="", route="", code=400)))
    assert "asked       chat with a body that names no model, 12 B" in text


def test_a_client_that_left() -> None:
    text = "\n".join(story(record(code=499, truncated_by_client=True)))
    assert "499: the client left after 1.50 s" in text
    assert "left before the answer was whole" in text


def test_costs_of_two_currencies_are_not_added() -> None:
    text = "\n".join(story(record(calls=(CALL, replace(CALL, cost=2.0, currency="EUR"), replace(CALL, cost=0.5, currency="EUR")))))
    assert "cost         0.00031 USD, 2.5 EUR" in text


def test_content_is_shown_and_harmless_to_a_terminal() -> None:
    kept = content(b'{"a": "\x1b[2J"}\nforged line', b"\xff" * 5_000, truncated=True)
    lines = story(record(content=kept, error="\x1b]0;title\x07\nforged", model="m" * 10_000))
    assert all(line.isprintable() for line in lines)
    assert "request (kept in part)" in lines
    assert r'  {"a": "\x1b[2J"}\nforged line' in lines
    assert len(lines[2]) < FIELD_CHARS_MAX + 100


@given(
    times=st.lists(st.floats(-1, 1e9, allow_nan=False), min_size=6, max_size=6),
    duration=st.floats(0, 1e9, allow_nan=False),
    some=st.lists(st.booleans(), min_size=4, max_size=4),
)
@example(times=[1.0, 0.0, 0.0, 0.0, 0.0, 0.0], duration=5e-324, some=[False] * 4)
def test_any_times_make_bars_of_one_width(times: list[float], duration: float, some: list[bool]) -> None:
    started, ended, *rest = times
    head, first, held, committed = (at if there else None for at, there in zip(rest, some, strict=True))
    call = replace(FAILED, started=started, ended=ended, head=head, first_content=first, held=held)
    lines = story(record(calls=(call,), duration=duration, committed=committed, backend=call.backend))
    row = next(line for line in lines if line.startswith("  1 "))
    assert row.index("]") - row.index("[") - 1 == BAR


def test_json_has_names_and_text() -> None:
    plain = json.loads(json.dumps(to_json(record(content=content(b'{"a": 1}', b"\xff")))))
    assert plain["segments"] == {"tenant": "acme", "prompt_length": "<200"}
    assert plain["calls"][1]["attempts"][0] == {"replica": "http://vllm-a:8000", "started": 0.0002, "ended": 0.002, "result": "connect"}
    assert plain["content"] == {"request": '{"a": 1}', "response": "\ufffd", "truncated": False}
    assert to_json(RECORD)["content"] is None
