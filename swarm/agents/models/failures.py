"""What a provider's refusal to reply means: whether and when to ask again.

The rules cover Anthropic, OpenAI and what serves their formats (vLLM, llama.cpp, OpenRouter, …);
where a status says too little, the error's type, its code or its words decide.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from swarm.agents.models.chat import (
    BadRequest,
    Busy,
    OutOfQuota,
    ProviderError,
    Rejected,
    TooLong,
    one_line,
)

_QUOTA = re.compile(
    r"insufficient_quota|billing|spend_limit_reached|quota_exceeded|credit balance is too low"
)
_TOO_LONG = re.compile(
    r"(prompt|input) is too long|context[_ -]?(length|window|size|limit)|request[_ ]too[_ ]large"
    r"|maximum (model|prompt) length|exceeds the maximum number of|string_above_max_length"
)
_REFUSED = re.compile(r"authentication|permission|not_found|invalid_api_key|deactivated")
_FAULTY = re.compile(r"invalid_request|invalid_prompt|policy")
_PASSING = {408, 409, 425, 429}
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, OSError)
"""What the SDKs and our readers raise when an answer is no JSON, or not as documented."""
_LOGGERS = ("anthropic", "openai", "httpx2", "httpcore2")


@dataclass(frozen=True)
class Complaint:
    """What came instead of a reply; the status is 200 when a reply had begun."""

    status: int
    message: str
    kind: str = ""
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, status: int, body: object, text: str, headers: Mapping[str, str]) -> Complaint:
        """Read an error's JSON, with or without the envelope `{"error": …}`; else take the text."""
        error = body.get("error", body) if isinstance(body, dict) else body
        if not isinstance(error, dict):
            plain = isinstance(error, str) and isinstance(body, dict)  # as Ollama says it
            return cls(status, str(error) if plain else text, headers=headers)
        details = error.get("details")
        code = error.get("code") or (details.get("error_code") if isinstance(details, dict) else "")
        if isinstance(code, int) and 400 <= code < 600:  # OpenRouter: of the server behind it
            status, code = code, ""
        message = str(error.get("message") or text)
        return cls(status, message, str(error.get("type") or ""), str(code or ""), headers)


def failure(name: str, complaint: Complaint, now: float) -> ProviderError:
    """The error to raise; `now` is seconds since the epoch, for limits that end at a time."""
    said = f"{complaint.kind} {complaint.code} {complaint.message}".lower()
    label = f"{complaint.kind} {complaint.code}".lower()
    status = complaint.status
    message = f"{name}: {complaint.message}" + ("" if status == 200 else f" ({status})")
    wait = retry_after(complaint.headers, now)
    if status == 402 or _QUOTA.search(label) or (status < 429 and _QUOTA.search(said)):
        return OutOfQuota(message, "add credit or raise the limit in the account", wait)
    if status == 413 or (status < 500 and _TOO_LONG.search(said)):
        return TooLong(message)
    if status == 404 and "item with id" in said:  # a reply's part that OpenAI did not keep
        return BadRequest(message)
    if status in (401, 403, 404) or (status <= 400 and _REFUSED.search(label)):
        return Rejected(message, "check the key, the model's name and the base URL")
    if status in _PASSING or status >= 500:
        return Busy(message, retry_after=wait)
    if status < 400 and not _FAULTY.search(label):
        return Busy(message, retry_after=wait)
    return BadRequest(message)


def unreachable(name: str, error: Exception) -> Busy:
    """No answer, or one that broke off or cannot be read; the SDKs hide why in the cause."""
    why = error.__cause__ or error
    return Busy(f"{name}: {type(why).__name__}: {why}" if str(why) else f"{name}: {why!r}")


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until the provider wants to be asked again; header names are in lower case.

    In this order: `retry-after-ms`, `retry-after` as seconds or date, and Anthropic's
    `anthropic-ratelimit-…-reset`: the latest of the exhausted limits, else the soonest of all.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    after = headers.get("retry-after", "")
    seconds = _number(after)
    if seconds is not None:
        return max(0.0, seconds)
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - now)
    except (ValueError, TypeError):
        return _reset(headers, now)


def _reset(headers: Mapping[str, str], now: float) -> float | None:
    exhausted, resets = [], []
    for name, value in headers.items():
        if not (name.startswith("anthropic-ratelimit-") and name.endswith("-reset")):
            continue
        seconds = _number(value)  # since the epoch, for subscriptions; else a date
        if seconds is None:
            try:
                seconds = datetime.fromisoformat(value).timestamp()
            except ValueError:
                continue
        resets.append(seconds)
        if headers.get(name.removesuffix("reset") + "remaining") == "0":
            exhausted.append(seconds)
    if not resets:
        return None
    return max(0.0, (max(exhausted) if exhausted else min(resets)) - now)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def usable(key: str, base_url: str | None) -> str:
    """The key as a header can carry it; servers of one's own may have none. Raises `Rejected`."""
    key = key.strip() or ("none" if base_url else "")
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise Rejected(
            "the API key is " + ("empty" if not key else "no key: it has spaces or odd characters"),
            "copy it anew from the provider's console",
        )
    return key


def address(base_url: str) -> str:
    """The base URL without a slash at its end. Raises `Rejected` where it is none."""
    try:
        parts = urlsplit(base_url)
        proper = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        proper = False
    if not proper:
        raise Rejected(f"no URL: {base_url}", "it looks like http://localhost:8000/v1")
    return base_url.rstrip("/")


def without(key: str, text: str) -> str:
    """A text for people, in which a provider may have repeated the key."""
    return one_line(text.replace(key, "…"))


def silence() -> None:
    """Let no SDK log requests, whatever the environment tells it: they carry keys and code."""
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
