"""When usage limits end: what CLIs were seen to say, and whatever else they may."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.agents.limits import LONGEST, reset_time

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 10, 7, 22, 30, tzinfo=BERLIN)  # a Wednesday


def berlin(*when: int) -> datetime:
    return datetime(*when, tzinfo=BERLIN)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("You've hit your session limit · resets 3am", berlin(2026, 10, 8, 3)),
        ("resets at 11:15pm (Europe/Berlin)", berlin(2026, 10, 7, 23, 15)),
        ("resets 8:30pm (Asia/Tokyo)", datetime(2026, 10, 8, 11, 30, tzinfo=UTC)),
        ("You've hit your limit · resets Oct 9 at 5am (Europe/Berlin)", berlin(2026, 10, 9, 5)),
        ("resets Oct 9, 5am", berlin(2026, 10, 9, 5)),
        ("resets 12am", berlin(2026, 10, 8, 0)),
        ("resets 12:10 pm", berlin(2026, 10, 8, 12, 10)),
        ("Resets Thu 12:59 AM", berlin(2026, 10, 8, 0, 59)),
        ("try again in 2 hours 13 minutes.", NOW + timedelta(hours=2, minutes=13)),
        ("or in 5 days 22 hours 11\nminutes.", NOW + timedelta(days=5, hours=22, minutes=11)),
        ("in 3 days, 4 hours and 1 minute", NOW + timedelta(days=3, hours=4, minutes=1)),
        ("or try again at Oct 11th, 2026 1:36 PM.", berlin(2026, 10, 11, 13, 36)),
        ("try again at 11:52 PM.", berlin(2026, 10, 7, 23, 52)),
        ("try again after October 8, 2026, 11:15.", berlin(2026, 10, 8, 11, 15)),
        ("Access resets at 10:57 PM GMT-3.", datetime(2026, 10, 8, 1, 57, tzinfo=UTC)),
        ("Retry after 30 seconds", NOW + timedelta(seconds=30)),
        ("Please try again in 1.25s", NOW + timedelta(seconds=1.25)),
        ("Please try again in 250ms", NOW + timedelta(seconds=0.25)),
        ("quota will reset after 4hr29min.", NOW + timedelta(hours=4, minutes=29)),
        ("limit reached|1791450000", datetime.fromtimestamp(1791450000, UTC)),
        ("resets 2026-10-08T04:00:00Z", datetime(2026, 10, 8, 4, tzinfo=UTC)),
        ("resets 10:28pm", NOW),  # two minutes ago: the clock that says so is just over it
        ("resets 10:15pm", berlin(2026, 10, 8, 22, 15)),
        ("resets Oct 1 at 5am", None),  # next year's
        ("resets Feb 30 at 5am", None),
        ("resets 13pm", None),
        ("resets 8:30pm (Middle/Earth)", None),
        ("limit reached|1000000000", None),
        ("in 40 days", None),
        ("in 7777777 weeks", None),
        ("every 5h and every week", NOW + timedelta(hours=5)),
        ("upgrade your plan, up to 20 people", None),
        ("", None),
    ],
)  # fmt: skip
def test_what_clis_say(text: str, expected: datetime | None) -> None:
    assert reset_time(text, NOW) == expected


def test_the_clocks_are_turned_back() -> None:
    before = berlin(2026, 10, 24, 22)
    assert reset_time("in 8 hours", before) == berlin(2026, 10, 25, 5)
    assert reset_time("resets Nov 1 at 8:30pm", before) == berlin(2026, 11, 1, 20, 30)
    assert reset_time("resets Nov 1 at 9:30pm", before) is None, "that is more than eight days"


def test_the_year_turns() -> None:
    eve = datetime(2026, 12, 31, 23, 0, tzinfo=UTC)
    assert reset_time("resets Jan 2 at 2am", eve) == datetime(2027, 1, 2, 2, tzinfo=UTC)
    assert reset_time("resets 1am", eve) == datetime(2027, 1, 1, 1, tzinfo=UTC)


NOWS = st.datetimes(
    min_value=datetime(2024, 1, 1),
    max_value=datetime(2040, 1, 1),
    timezones=st.one_of(
        st.sampled_from([BERLIN, ZoneInfo("America/New_York"), ZoneInfo("Asia/Kolkata"), UTC]),
        st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m))),
    ),
)
SAID = """resets resets at try again in on after 3am 12:59 PM 5 30 77 2 days hours minutes s ms h
    Oct feb 9 29th 2026 9999 , and Mon (Europe/Berlin) UTC GMT+3 GMT-99 (A/B) | |1760000000 Thu
    |9999999999999 2026-10-09T05:00:00Z 2026-02-31 25:61 00:00 7777777 weeks . · ﬁ ٣am"""
WORDS = st.sampled_from(SAID.split())


@given(text=st.one_of(st.text(), st.lists(WORDS, max_size=9).map(" ".join)), now=NOWS)
def test_whatever_is_said_it_is_none_or_soon(text: str, now: datetime) -> None:
    when = reset_time(text, now)
    if when is not None:
        ahead = when.astimezone(UTC) - now.astimezone(UTC)
        assert timedelta(0) <= ahead <= LONGEST
        assert when.tzinfo == now.tzinfo


@given(now=NOWS, hour=st.integers(0, 23), minute=st.integers(0, 59))
def test_a_time_of_day_is_that_time_within_a_day(now: datetime, hour: int, minute: int) -> None:
    half = "am" if hour < 12 else "pm"
    when = reset_time(f"resets {hour % 12 or 12}:{minute:02}{half}", now)
    assert when is not None
    assert when.astimezone(UTC) - now.astimezone(UTC) <= timedelta(
        hours=26
    )  # a day may have one hour more, and one be skipped
    just_over = timedelta(minutes=71)
    expected = when.replace(hour=hour, minute=minute, second=0, microsecond=0)
    assert abs(when.astimezone(UTC) - expected.astimezone(UTC)) <= just_over


@given(now=NOWS, days=st.integers(0, 6), hours=st.integers(0, 23), minutes=st.integers(0, 59))
def test_an_amount_of_time_is_added(now: datetime, days: int, hours: int, minutes: int) -> None:
    said = f"try again in {days} days {hours} hours {minutes} minutes."
    expected = now.astimezone(UTC) + timedelta(days=days, hours=hours, minutes=minutes)
    when = reset_time(said, now)
    assert when is not None
    assert when.astimezone(UTC) == expected
