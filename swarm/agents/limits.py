"""When a usage limit ends, told from what a CLI says about it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

LONGEST = timedelta(days=8)
"""Limits are of hours or a week; what is further ahead was misread."""
_JUST_OVER = timedelta(minutes=10)
"""A time of day that is past by no more is meant, not tomorrow's."""

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_UNIT_SECONDS = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

_EPOCH = re.compile(r"\|\s*(\d{10})(?:\d{3})?\b")
_AMOUNT = re.compile(
    r"(\d{1,7}(?:\.\d{1,9})?)\s*"
    r"(ms|milliseconds?|w|weeks?|d|days?|h|hrs?|hours?|m|mins?|minutes?|s|secs?|seconds?)"
    r"(?![a-z])",
    re.IGNORECASE,
)
_BETWEEN_AMOUNTS = re.compile(r"(?:\s|,|\band\b)*", re.IGNORECASE)
_ISO = re.compile(
    r"(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)[T ](?P<hour>\d\d):(?P<minute>\d\d)"
    r"(?::\d\d(?:\.\d+)?)?\s?(?P<zone>Z|[+-]\d\d:?\d\d)?"
)
_DATE = (
    r"(?:(?P<month>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?\s+"
    r"(?P<day>\d{1,2})(?:st|nd|rd|th)?(?:,?\s+(?P<year>\d{4}))?"
    r"|(?P<weekday>mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?)"
)
_CLOCK = (
    r"(?<![\d:.])(?P<hour>\d{1,2})(?::(?P<minute>\d\d)(?::\d\d)?)?\s*(?P<half>[ap]\.?m\b\.?)?"
    r"(?![\d:])"
)
_ZONE = (
    r"(?:\s*\(?(?P<zone>(?:UTC|GMT)(?:[+-]\d{1,2}(?::?\d\d)?)?|Z\b"
    r"|[A-Z][A-Za-z_]+/[A-Za-z_/+-]+)\)?)?"
)
_WHEN = re.compile(rf"(?:{_DATE},?\s+(?:at\s+)?)?{_CLOCK}{_ZONE}", re.IGNORECASE)


def reset_time(text: str, now: datetime) -> datetime | None:
    """When the limit that `text` speaks of ends; `now` is aware, and its zone that of the text.

    Understands "resets 3am", "at 3:15pm (Europe/Berlin)", "Oct 9 at 5am", "in 2 hours 13 minutes",
    "after 30 s", "limit reached|1760000000". Never in the past; `None` for what is not understood
    or lies more than eight days ahead.
    """
    if found := _EPOCH.search(text):
        return _sane(datetime.fromtimestamp(int(found[1]), UTC), now)
    if (ahead := _ahead(text)) is not None:
        return _sane(now.astimezone(UTC) + ahead, now)
    if found := _ISO.search(text):
        return _absolute(found.groupdict(), now)
    for found in _WHEN.finditer(text):
        parts = found.groupdict()
        if parts["half"] or parts["minute"]:  # a bare number is no time
            return _absolute(parts, now)
    return None


def _sane(when: datetime, now: datetime) -> datetime | None:
    """In the zone of `now`; a moment that is just over is now."""
    ahead = _apart(when, now)
    if not -_JUST_OVER <= ahead <= LONGEST:
        return None
    return when.astimezone(now.tzinfo) if ahead > timedelta(0) else now


def _apart(when: datetime, now: datetime) -> timedelta:
    """The time from `now` to `when`. Python subtracts what a clock shows when zones are equal."""
    return when.astimezone(UTC) - now.astimezone(UTC)


def _ahead(text: str) -> timedelta | None:
    """The first run of amounts of time: "3 days 4 hours", "4hr29min", "1h, 20m"."""
    amount = _AMOUNT.search(text)
    if amount is None:
        return None
    seconds = 0.0
    while amount:
        unit = amount[2].lower()
        unit = "ms" if unit.startswith(("ms", "milli")) else unit[0]
        seconds += float(amount[1]) * _UNIT_SECONDS[unit]
        between = _BETWEEN_AMOUNTS.match(text, amount.end())
        amount = _AMOUNT.match(text, between.end() if between else amount.end())
    return timedelta(seconds=min(seconds, 2 * LONGEST.total_seconds()))


def _absolute(parts: dict[str, str | None], now: datetime) -> datetime | None:
    zone = _zone(parts["zone"], now)
    hour, minute = _hour(parts), int(parts["minute"] or 0)
    if zone is None or hour is None or minute > 59:
        return None
    here = now.astimezone(zone)
    clock = here.replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
    try:
        candidates = _days(parts, clock)
    except (ValueError, OverflowError):  # such as February 30
        return None
    ahead = [when for when in candidates if _apart(when, now) >= -_JUST_OVER]
    return _sane(min(ahead), now) if ahead else None


def _days(parts: dict[str, str | None], clock: datetime) -> list[datetime]:
    """The days that may be meant, at that time of day."""
    if month := parts["month"]:
        number = int(month) if month.isdigit() else _MONTHS.index(month.lower()) + 1
        years = [int(parts["year"])] if parts["year"] else [clock.year, clock.year + 1]
        day = int(parts["day"] or 0)
        return [clock.replace(year=year, month=number, day=day) for year in years]
    days = [clock + timedelta(days=days) for days in range(9)]
    if weekday := parts.get("weekday"):
        days = [day for day in days if day.weekday() == _WEEKDAYS.index(weekday.lower())]
    return days


def _hour(parts: dict[str, str | None]) -> int | None:
    hour, half = int(parts["hour"] or 0), parts.get("half")
    if half:
        if not 1 <= hour <= 12:
            return None
        return hour % 12 + (12 if half[0] in "pP" else 0)
    return hour if hour <= 23 else None


def _zone(name: str | None, now: datetime) -> tzinfo | None:
    if not name:
        return now.tzinfo
    offset = re.fullmatch(r"(?:UTC|GMT)?([+-])(\d{1,2}):?(\d\d)?", name, re.IGNORECASE)
    if offset:
        minutes = int(offset[2]) * 60 + int(offset[3] or 0)
        if minutes >= 24 * 60:
            return None
        return timezone(timedelta(minutes=-minutes if offset[1] == "-" else minutes))
    if name.upper() in ("UTC", "GMT", "Z"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
