"""The official SDKs, behind our Protocol, against a server that speaks each of the wires."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_server import Script, Server, Step, serve

from swarm.agents.models import anthropic, failures, openai, responses
from swarm.agents.models.chat import (
    Answered,
    BadRequest,
    Busy,
    Call,
    OutOfQuota,
    Provider,
    ProviderError,
    Rejected,
    Replied,
    Reply,
    Result,
    Said,
    Tool,
    TooLong,
    Turn,
    Usage,
    one_line,
)

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-very-secret-0123456789"
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TOOLS = (Tool("read", "Read a file.", SCHEMA), Tool("run", "Run it.", {"type": "object"}))
CONTEXT = "LR = 0.04\n" * 200
WIRES = ("anthropic", "responses", "chat")
OPENAI = WIRES[1:]

wires = pytest.mark.parametrize("wire", WIRES)


@pytest.fixture(autouse=True)
def no_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is encrypted, and to read the system's list takes longer than a test."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))


def provider(wire: str, server: Server, silent_seconds: float = 20.0, key: str = KEY) -> Provider:
    if wire == "anthropic":
        return anthropic.make("claude-x", server.url_anthropic, key, silent_seconds)
    assert wire == "responses" or wire == "chat"
    return openai.make("gpt-x", server.url_openai, key, wire, silent_seconds)


def ask(model: Provider, turns: Iterable[Turn] = (Said("go"),)) -> Reply:
    return model.reply("You do research.", CONTEXT, TOOLS, [*turns], lambda text: None)


def fails(wire: str, script: Script, silent_seconds: float = 20.0) -> ProviderError:
    with serve(script) as server, pytest.raises(ProviderError) as raised:
        ask(provider(wire, server, silent_seconds))
    return raised.value


def answered(reply: Reply, *texts: str) -> list[Turn]:
    results = [Result(call, text) for call, text in zip(reply.calls, texts, strict=True)]
    return [Replied(reply), Answered(tuple(results))]


@wires
def test_a_conversation_with_parallel_calls_thinking_and_a_cache(wire: str) -> None:
    calls = (("read", {"path": "a/b c.py"}), ("run", {}))
    script = [Step("I look.", calls, thinking="hm, so"), Step("Now.", calls[:1]), Step("Done.")]
    with serve(script) as server:
        model, shown = provider(wire, server), list[str]()
        turns: list[Turn] = [Said("go")]
        first = model.reply("You do research.", CONTEXT, TOOLS, turns, shown.append)
        assert (first.text, first.stop) == ("I look.", "calls")
        assert [(c.name, c.arguments, c.problem) for c in first.calls] == [(*c, "") for c in calls]
        assert "".join(shown).rstrip("\n") == "hm, so\nI look."
        assert len(shown) > 4, "it comes in pieces"

        turns += answered(first, "text of a", "")
        second = ask(model, turns)
        third = ask(model, [*turns, *answered(second, "more"), Said("and hurry")])
        assert (third.text, third.stop, third.calls) == ("Done.", "end", ())
        assert server.bad == []
        assert [request.turn for request in server.requests] == [0, 1, 2]
        assert len({request.conversation for request in server.requests}) == 1
        assert server.requests[1].answers == ("text of a", "(nothing)")
        assert "a/b c.py" in str(server.requests[1].body), (
            "its own arguments come back to the model"
        )
        assert server.requests[2].text == "and hurry"
        assert server.requests[0].key == KEY

    assert first.usage.cached_tokens == 0 < first.usage.output_tokens
    prompt = first.usage.input_tokens + first.usage.written_tokens
    assert second.usage.cached_tokens == prompt, "what was sent before is read from the cache"
    assert third.usage.cached_tokens > second.usage.cached_tokens
    if wire == "anthropic":
        assert first.usage.input_tokens == 0 < first.usage.written_tokens


@wires
def test_another_conversation_finds_the_context_in_the_cache(wire: str) -> None:
    with serve(lambda request: Step("yes")) as server:
        model = provider(wire, server)
        ask(model)
        other = ask(model, [Said("something else entirely")])
    if wire == "chat":  # context and first words are one message, so only the tools are equal here
        assert other.usage.cached_tokens > 0
    else:
        assert other.usage.cached_tokens > 500


@pytest.mark.parametrize("hour", [False, True])
def test_what_all_ideas_share_may_be_cached_for_an_hour(hour: bool) -> None:
    """Trials are as long as the usual cache; its shorter marks come behind the longer ones."""
    with serve([Step("ok")]) as server:
        model = anthropic.make("m", server.url_anthropic, KEY, hour=hour)
        reply = model.reply("system", CONTEXT, TOOLS, [Said("go")], lambda text: None)
        assert server.bad == []
    body = str(server.requests[0].body)
    assert body.count("'ttl': '1h'") == (2 if hour else 0)
    assert body.count("cache_control") == 3
    assert reply.usage.hour_tokens == 7  # as the server said


@wires
def test_an_empty_reply_and_many_words_of_ours_keep_the_conversation_well_formed(wire: str) -> None:
    with serve([Step(""), Step(" \n"), Step("ok")]) as server:
        model = provider(wire, server)
        turns: list[Turn] = [Said("go"), Said("now")]
        for _ in range(2):
            turns += [Replied(ask(model, turns)), Said("you said nothing"), Said("again")]
        assert ask(model, turns).text == "ok"
        assert server.bad == []


@wires
def test_many_calls_at_once_leave_the_cache_in_reach(wire: str) -> None:
    with serve([Step(calls=(("run", {}),) * 30), Step("ok")]) as server:
        model = provider(wire, server)
        first = ask(model)
        second = ask(model, [Said("go"), *answered(first, *["done"] * 30)])
        assert server.bad == []
    assert second.usage.cached_tokens == first.usage.input_tokens + first.usage.written_tokens


def quota(wire: str) -> Step:
    if wire == "anthropic":
        text = "Your credit balance is too low to access the Anthropic API."
        return Step(status=400, message=text)
    text = "You exceeded your current quota, please check your plan and billing details."
    return Step(status=429, kind="insufficient_quota", code="insufficient_quota", message=text)


def too_long(wire: str) -> Step:
    if wire == "anthropic":
        return Step(status=400, message="prompt is too long: 210000 tokens > 200000 maximum")
    text = "This model's maximum context length is 4096 tokens. However, you requested 5000."
    return Step(status=400, code="context_length_exceeded" * (wire == "responses"), message=text)


@wires
@pytest.mark.parametrize(
    ("step", "expected", "seconds"),
    [
        (Step(status=429, headers={"Retry-After": "7"}), Busy, 7),
        (Step(status=429, headers={"Retry-After": "86400"}), Busy, 86400),
        (Step(status=429), Busy, None),
        (Step(status=529, headers={"retry-after-ms": "1500"}), Busy, 1.5),
        (Step(status=500, message="credit card or billing oddly mentioned"), Busy, None),
        (Step(status=503, fault="garbage"), Busy, None),
        (Step(status=408), Busy, None),
        (Step(status=409), Busy, None),
        (quota, OutOfQuota, None),
        (Step(status=402), OutOfQuota, None),
        (Step(status=401), Rejected, None),
        (Step(status=403), Rejected, None),
        (Step(status=404), Rejected, None),
        (Step(status=413), TooLong, None),
        (too_long, TooLong, None),
        (Step(status=400, message="messages.3: unexpected"), BadRequest, None),
        (Step(status=422, message="no such field"), BadRequest, None),
    ],
)
def test_what_a_refusal_means(
    wire: str, step: Step, expected: type[ProviderError], seconds: float | None
) -> None:
    step = step(wire) if callable(step) else step
    error = fails(wire, [step])
    assert type(error) is expected
    assert error.retry_after == seconds
    assert step.message in str(error)
    assert "\n" not in str(error) and len(str(error)) <= 300


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, {"error": "model 'x' not found, try pulling it first"}, Rejected),  # Ollama
        (400, {"object": "error", "message": "The decoder prompt (length 9000) is longer than the"
               " maximum model length of 4096.", "type": "BadRequestError", "code": 400}, TooLong),
        (400, {"error": {"code": 400, "type": "exceed_context_size_error", "message":
               "the request exceeds the available context size"}}, TooLong),  # llama.cpp
        (200, {"message": "Provider returned error", "code": 502}, Busy),  # OpenRouter, midway
        (200, {"message": "Insufficient credits", "code": 402}, OutOfQuota),
        (400, {"type": "error", "error": {"type": "invalid_request_error", "message":
               "input length and `max_tokens` exceed context limit: 199000 + 32000"}}, TooLong),
        (404, {"error": {"message": "Item with id 'rs_1' not found. Items are not persisted when"
               " `store` is set to false.", "type": "invalid_request_error"}}, BadRequest),
        (400, {"detail": [{"msg": "field required"}]}, BadRequest),
        (400, ["?"], BadRequest),
        (502, "<html>Bad Gateway</html>", Busy),
        (200, None, Busy),
    ],
)  # fmt: skip
def test_what_other_servers_say(status: int, body: object, expected: type[ProviderError]) -> None:
    complaint = failures.Complaint.of(status, body, "as text", {})
    error = failures.failure("openai", complaint, 0.0)
    assert type(error) is expected
    assert str(error).startswith("openai: ")


def test_limits_of_one_provider_only() -> None:
    spent = Step(status=429, kind="rate_limit_error", code="x", message="monthly usage threshold")
    assert type(fails("anthropic", [spent])) is Busy
    details = {"error": {"type": "rate_limit_error", "message": "monthly threshold",
                         "details": {"error_code": "enforced_spend_limit_reached"}}}  # fmt: skip
    complaint = failures.Complaint.of(429, details, "", {})
    assert type(failures.failure("anthropic", complaint, 0.0)) is OutOfQuota
    text = "Request too large for gpt-x on tokens per min (TPM): Limit 30000, Requested 40000."
    assert type(fails("responses", [Step(status=429, message=text)])) is TooLong


@wires
@pytest.mark.parametrize("fault", ["drop", "short", "error", "garbage"])
def test_a_reply_that_breaks_off_is_worth_asking_again(wire: str, fault: str) -> None:
    step = Step("I look at it.", calls=(("run", {}),), fault=fault)
    error = fails(wire, [step])
    assert type(error) is Busy
    assert "broke off" in str(error) or fault in ("drop", "error")
    assert len(str(error)) <= 300 and "\n" not in str(error)


@wires
@pytest.mark.parametrize("fault", ["hang", "stall"])
def test_silence_ends(wire: str, fault: str) -> None:
    assert type(fails(wire, [Step("I look at it.", fault=fault)], silent_seconds=0.2)) is Busy


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://x/v1", "http://", "http://x:y/"])
def test_a_base_url_that_is_none_is_refused_at_once(url: str) -> None:
    for make in (anthropic.make, openai.make):
        with pytest.raises(Rejected, match="no URL"):
            make("m", url, KEY)


@wires
def test_nobody_listens(wire: str) -> None:
    with serve([]) as server:  # its port is nobody's afterwards
        model = provider(wire, server)
    with pytest.raises(Busy, match="refused"):
        ask(model)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("server_error", Busy),
        ("rate_limit_exceeded", Busy),
        ("insufficient_quota", OutOfQuota),
        ("context_length_exceeded", TooLong),
        ("invalid_prompt", BadRequest),
    ],
)
@pytest.mark.parametrize(
    ("wire", "how"),
    [
        ("responses", {"stop": "failed"}),
        ("responses", {"fault": "error"}),
        ("chat", {"fault": "error"}),
    ],
)
def test_a_reply_that_fails_midway_says_why(
    wire: str, how: dict[str, str], code: str, expected: type[ProviderError]
) -> None:
    error = fails(wire, [Step("I look.", code=code, message="sorry, no", **how)])
    assert type(error) is expected
    assert "sorry, no" in str(error)


@wires
@pytest.mark.parametrize("arguments", ['{"path": "a', "[1]", "path=a", '"text"', "{}}", "null"])
def test_arguments_that_are_no_object_are_a_problem_to_answer(wire: str, arguments: str) -> None:
    with serve([Step(calls=(("read", arguments),)), Step("sorry")]) as server:
        model = provider(wire, server)
        reply = ask(model)
        [call] = reply.calls
        assert call.arguments == {}
        assert bool(call.problem) is (arguments != "null")
        results = (Result(call, call.problem, is_error=True),)
        assert ask(model, [Said("go"), Replied(reply), Answered(results)]).text == "sorry"
        assert server.bad == []


@wires
def test_a_reply_that_is_cut_has_a_call_with_a_problem(wire: str) -> None:
    calls = (("run", {}), ("read", '{"path": "tra'))
    for last in (calls[1], ("read", "")):
        with serve([Step("I", (calls[0], last), stop="length"), Step("ok")]) as server:
            model = provider(wire, server)
            reply = ask(model)
            assert reply.stop == "length"
            assert [bool(call.problem) for call in reply.calls] == [False, True]
            assert ask(model, [Said("go"), *answered(reply, "ok", "cut off")]).text == "ok"
            assert server.bad == []


@wires
def test_a_reply_that_is_cut_in_thought_leaves_a_conversation_to_go_on_with(wire: str) -> None:
    with serve([Step(thinking="and then, and", stop="length"), Step("ok")]) as server:
        model = provider(wire, server)
        reply = ask(model)
        assert (reply.text, reply.stop) == ("", "length")
        assert ask(model, [Said("go"), Replied(reply), Said("be brief")]).text == "ok"
        assert server.bad == []


@wires
def test_a_refusal_says_so(wire: str) -> None:
    said = "not that" if wire == "chat" else ""
    with serve([Step(said, stop="refusal")]) as server:
        reply = ask(provider(wire, server))
    assert (reply.stop, reply.text) == ("refusal", "not that")


@pytest.mark.parametrize("wire", OPENAI)
def test_a_filtered_reply_is_a_refusal(wire: str) -> None:
    with serve([Step("half a", stop="filter")]) as server:
        assert ask(provider(wire, server)).stop == "refusal"


@pytest.mark.parametrize(
    ("word", "stop"),
    [("model_context_window_exceeded", "length"), ("pause_turn", "end"), ("tool_use", "end")],
)
def test_claude_stops_for_other_reasons(word: str, stop: str) -> None:
    with serve([Step("so far", stop=word), Step("on")]) as server:
        model = provider("anthropic", server)
        reply = ask(model)
        assert reply.stop == stop
        assert ask(model, [Said("go"), Replied(reply), Said("go on")]).text == "on"


def test_calls_are_calls_whatever_the_reply_says_it_ended_for() -> None:
    with serve([Step("so far", (("run", {}),), stop="end_turn")]) as server:
        assert ask(provider("anthropic", server)).stop == "calls"


@pytest.mark.parametrize("style", ["whole", "object"])
def test_servers_that_send_calls_in_their_own_way(style: str) -> None:
    calls = (("read", {"path": "a"}), ("read", {"path": "b"}), ("run", {}))
    with serve([Step("I", calls, style=style), Step("", calls, style=style), Step("ok")]) as server:
        model = provider("chat", server)
        first = ask(model)
        assert [(call.name, call.arguments) for call in first.calls] == list(calls)
        assert first.stop == "calls" and first.usage == Usage()
        turns = [Said("go"), *answered(first, "1", "2", "3")]
        second = ask(model, turns)
        ids = [call.id for call in first.calls + second.calls]
        assert len(set(ids)) == 6 and all(ids)
        assert ask(model, [*turns, *answered(second, "1", "2", "3")]).text == "ok"
        assert server.bad == []


@pytest.mark.parametrize(
    ("wire", "unknown"),
    [("chat", ["stream_options"]), ("responses", ["prompt_cache_key", "include"])],
)
def test_parameters_that_a_server_does_not_know_are_left_out(wire: str, unknown: list[str]) -> None:
    with serve(lambda request: Step("yes"), unknown=unknown) as server:
        model = provider(wire, server)
        assert ask(model).text == ask(model).text == "yes"
        assert server.count == len(unknown) + 2, "it is learnt once"


def test_openai_is_asked_for_responses_and_others_for_completions() -> None:
    with serve(lambda request: Step(request.wire)) as server:
        assert ask(openai.make("m", server.url_openai, "")).text == "chat"
        assert server.requests[0].key == "none", "a server of one's own may need no key"
        assert ask(anthropic.make("m", server.url_anthropic + "/v1/", KEY)).text == "anthropic"
    for url in (None, openai.URL, openai.URL + "/"):
        made = openai.make("m", url, KEY)
        assert made._format.request is responses.request  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", ["", "  ", "sk-…", "sk a", "sk\nx"])
def test_a_key_that_can_be_none_is_refused_at_once(key: str) -> None:
    for make in (anthropic.make, openai.make):
        with pytest.raises(Rejected, match="key is"):
            make("m", None, key)


@wires
def test_the_key_is_neither_told_nor_logged(
    wire: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("DEBUG")
    text = f"Incorrect API key provided: {KEY}.\nSee\tthe docs. " + "x" * 999
    with serve([Step(status=401, message=text), Step("ok")]) as server:
        model = provider(wire, server, key=f" {KEY}\n")
        with pytest.raises(Rejected) as raised:
            ask(model)
        ask(model)
        assert server.requests[0].key == KEY
    assert "Incorrect API key provided: …. See the docs." in str(raised.value)
    assert raised.value.__suppress_context__ and raised.value.__cause__ is None
    assert KEY not in f"{raised.value} {caplog.text} {model!r} {vars(raised.value)}"
    assert caplog.text == ""


@wires
@pytest.mark.parametrize("fault", ["drop", "short", "error"])
def test_a_reply_that_breaks_off_has_cost_something(wire: str, fault: str) -> None:
    step = Step("I begin to think about it", fault=fault)
    with serve([step]) as server, pytest.raises(Busy) as broken:
        ask(provider(wire, server))
    usage = broken.value.usage
    assert usage is not None
    assert (usage.written_tokens > 100) == (wire == "anthropic")  # the others say so at the end


@wires
def test_a_request_that_was_refused_has_cost_nothing(wire: str) -> None:
    with serve([Step(status=500)]) as server, pytest.raises(Busy) as refused:
        ask(provider(wire, server))
    assert refused.value.usage is None


def test_half_a_character_is_no_argument() -> None:
    call = Call.parsed("1", "note", '{"text": "\\ud83d"}')
    assert call.problem == "the arguments are not valid text"
    assert call.arguments == {}


def test_an_sdk_that_is_told_to_log_says_nothing() -> None:
    program = f"""
import importlib, sys
sys.path.insert(0, "tests")
from llm_server import Step, serve
from swarm.agents.models import chat
with serve([Step("ok")] * 2) as server:
    for name, url in ("anthropic", server.url_anthropic), ("openai", server.url_openai):
        model = importlib.import_module("swarm.agents.models." + name).make("m", url, {KEY!r})
        model.reply("s", "c", [], [chat.Said("go")], lambda text: None)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"ANTHROPIC_LOG": "debug", "OPENAI_LOG": "debug", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@wires
def test_who_shows_may_fail_and_it_is_not_the_providers_fault(wire: str) -> None:
    def broken(text: str) -> None:
        raise BrokenPipeError

    with serve([Step("I look."), Step("ok")]) as server:
        model = provider(wire, server)
        with pytest.raises(BrokenPipeError):
            model.reply("s", CONTEXT, TOOLS, [Said("go")], broken)
        assert ask(model).text == "ok"


@pytest.mark.parametrize("sdk", ["anthropic", "openai"])
def test_without_the_sdk_there_is_a_hint(sdk: str) -> None:
    program = f"""
import sys
sys.modules[{sdk!r}] = None
from swarm.agents.models import chat, completions, failures, responses
heavy = {{"anthropic", "openai", "httpx2", "pydantic"}}
assert not any(map(sys.modules.get, heavy))
from swarm.errors import SwarmError
try:
    import swarm.agents.models.{sdk}
except SwarmError as error:
    print(error, "|", error.hint)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    said = (
        f"the agent {sdk} needs {sdk}, which is not installed | pip install 'swarm-research[llm]'"
    )
    assert done.stdout.strip() == said


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "12"}, 12),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": formatdate(NOW + 90, usegmt=True)}, 90),
        ({"retry-after": formatdate(NOW - 90, usegmt=True)}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"anthropic-ratelimit-requests-reset": "2027-01-15T08:01:00Z"}, 60),
        ({"anthropic-ratelimit-unified-reset": f"{NOW + 3600:.0f}"}, 3600),
        ({"anthropic-ratelimit-requests-reset": "2027-01-15T08:00:05Z",
          "anthropic-ratelimit-tokens-reset": "2027-01-15T08:01:00Z",
          "anthropic-ratelimit-tokens-remaining": "0"}, 60),
        ({"anthropic-ratelimit-requests-reset": "2027-01-15T08:00:05Z",
          "anthropic-ratelimit-tokens-reset": "2027-01-15T08:01:00Z"}, 5),
        ({"anthropic-ratelimit-requests-reset": "later",
          "retry-after": "3"}, 3),
    ],
)  # fmt: skip
def test_when_to_ask_again(headers: dict[str, str], seconds: float | None) -> None:
    assert failures.retry_after(headers, NOW) == seconds


@given(st.text(alphabet="0123456789 -+:.,eEiInNfFaATZGM\n²", max_size=40))
def test_no_header_is_too_odd(value: str) -> None:
    for name in ("retry-after-ms", "retry-after", "anthropic-ratelimit-x-reset"):
        seconds = failures.retry_after({name: value}, NOW)
        assert seconds is None or (seconds >= 0 and math.isfinite(seconds))


@given(st.text(alphabet='{}[]":,\\ a0-NnulE', max_size=30) | st.none() | st.lists(st.integers()))
def test_no_arguments_are_too_odd(arguments: object) -> None:
    call = Call.parsed("1", "read", arguments)
    assert call.arguments == {} or not call.problem


@given(st.text(max_size=2000))
def test_a_message_is_one_short_line(text: str) -> None:
    assert len(one_line(text)) <= 300
    assert len(f"{one_line(text)}.".splitlines()) == 1


def test_a_message_cannot_write_on_the_terminal() -> None:
    assert one_line("a\x1b[31mb\a\r\nc\0") == "a[31mb c"


def test_usage_adds_up() -> None:
    assert Usage(1, 2, 3, 4) + Usage(10, 20, 30, 40) == Usage(11, 22, 33, 44)
    assert replace(Usage(), output_tokens=5) + Usage() == Usage(output_tokens=5)
