"""Cron expressions: what is read, what is refused, and when they fire where clocks change."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from batchflow.core.schedule import Cron, Schedule
from batchflow.errors import ConfigurationError

BERLIN = "Europe/Berlin"


def ms(*parts: int) -> int:
    """A time in UTC."""
    year, month, day, *rest = parts
    return int(datetime(year, month, day, *rest, tzinfo=UTC).timestamp() * 1000)


def local(cron: Cron, after: int, count: int) -> list[str]:
    """The next fires, as the clock on the wall shows them."""
    return [cron.local_time(at).strftime("%d %H:%M%z") for at in cron.upcoming(after, count)]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 3 * * *", ["02 03:00+0000", "03 03:00+0000"]),
        (" 0   3 * * * ", ["02 03:00+0000", "03 03:00+0000"]),
        ("*/30 9-10 * * mon-fri", ["01 09:00+0000", "01 09:30+0000"]),
        ("0 0 L * *", ["30 00:00+0000", "31 00:00+0000"]),
        ("0 0 13 * fri", ["05 00:00+0000", "12 00:00+0000"]),
        ("@daily", ["02 00:00+0000", "03 00:00+0000"]),
        ("CRON_TZ=Asia/Tokyo 0 9 * * *", ["02 09:00+0900", "03 09:00+0900"]),
    ],
)
def test_cron_fires_when_it_says(expression: str, expected: list[str]) -> None:
    """As crontab(5) says, and as schedules of Upstash are written."""
    assert local(Cron.parse(expression), ms(2026, 6, 1, 3), 2) == expected


def test_cron_fires_once_right_after_a_gap() -> None:
    """A time that the clock skips does not exist on that day: it fires as soon as the clock goes on."""
    cron = Cron.parse("30 2 * * *", BERLIN)
    assert local(cron, ms(2026, 3, 27, 12), 3) == ["28 02:30+0100", "29 03:00+0200", "30 02:30+0200"]
    assert local(Cron.parse("0,30 2 * * *", BERLIN), ms(2026, 3, 28, 12), 2) == ["29 03:00+0200", "30 02:00+0200"]


def test_cron_fires_once_where_a_time_comes_twice() -> None:
    """The first time; nothing is due in the hour that is repeated, whenever it is asked."""
    cron = Cron.parse("30 2 * * *", BERLIN)
    assert local(cron, ms(2026, 10, 24, 12), 2) == ["25 02:30+0200", "26 02:30+0100"]
    assert local(cron, ms(2026, 10, 25, 1, 10), 1) == ["26 02:30+0100"]


def test_cron_of_intervals_follows_the_time_that_passes() -> None:
    """Every quarter of an hour is one in both directions: in the repeated hour too, and over a gap."""
    cron = Cron.parse("*/15 * * * *", BERLIN)
    for begin in (ms(2026, 10, 24, 23), ms(2026, 3, 29, 0)):
        times = cron.upcoming(begin, 16)
        assert [at - begin for at in times] == [number * 900_000 for number in range(1, 17)]


@pytest.mark.parametrize(
    "zone", ["America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Sao_Paulo", BERLIN]
)
@pytest.mark.parametrize("expression", ["30 2 * * *", "0 0 * * *", "*/20 * * * *", "0 */6 * * *", "15 1,2,3 * * 0"])
def test_cron_only_goes_forward(zone: str, expression: str) -> None:
    """Over a year of changes of the clock each time is after the one before it, and never the same instant."""
    cron = Cron.parse(expression, zone)
    at, end = ms(2026, 1, 1), ms(2027, 1, 1)
    days = set[str]()
    for time in cron.times_after(at):
        assert time > at
        at = time
        days.add(cron.local_time(time).date().isoformat())
        if time > end:
            break
    # Those of every day have one on every day, whatever the clock does.
    assert expression == "15 1,2,3 * * 0" or len(days) >= 365
    assert cron.next_after(at) == next(cron.times_after(at))


def test_cron_finds_the_latest_of_missed_times() -> None:
    """What is made up for is the last of them, however many there are."""
    now = ms(2026, 6, 10, 12, 0, 30)
    assert Cron.parse("* * * * *").latest_until(now, ms(2026, 1, 1)) == ms(2026, 6, 10, 12, 0)
    assert Cron.parse("0 3 * * *").latest_until(now, ms(2026, 6, 1, 3)) == ms(2026, 6, 10, 3)
    assert Cron.parse("0 0 29 2 *").latest_until(now, ms(2020, 2, 29)) == ms(2024, 2, 29)
    assert Cron.parse("0 3 * * *").latest_until(ms(2026, 6, 1, 3), ms(2026, 6, 1, 3)) == ms(2026, 6, 1, 3)


@pytest.mark.parametrize(
    ("expression", "phrase"),
    [
        ("* * *", "3 fields"),
        ("0 * * * * *", "6 fields"),
        ("", "0 fields"),
        ("61 * * * *", "minute"),
        ("0 3 * * moo", "day-of-week"),
        ("0 0 30 2 *", "day-of-month"),
        ("@dayly", "did you mean '@daily'"),
        (5, "five fields as text"),
        (None, "five fields as text"),
        ("CRON_TZ=Mars/Base 0 3 * * *", "'Mars/Base'"),
    ],
)
def test_cron_refuses_what_it_cannot_read(expression: object, phrase: str) -> None:
    """In one sentence that says what is wrong, and what to write."""
    with pytest.raises(ConfigurationError, match=phrase) as caught:
        Cron.parse(expression)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zone", ["Europe/Berln", "", 3, "/etc/passwd", "../x", "\0"])
def test_cron_refuses_an_unknown_time_zone(zone: object) -> None:
    """With the name that may have been meant."""
    with pytest.raises(ConfigurationError) as caught:
        Cron.parse("0 3 * * *", zone)
    assert caught.value.option == "timezone"
    assert "'Europe/Berlin'" in str(caught.value)


def test_cron_takes_a_time_zone_object_and_one_zone_only() -> None:
    """A `ZoneInfo` has a name; two different names are a contradiction."""
    assert Cron.parse("0 3 * * *", ZoneInfo(BERLIN)) == Cron("0 3 * * *", BERLIN)
    assert Cron.parse(f"CRON_TZ={BERLIN} 0 3 * * *", BERLIN) == Cron("0 3 * * *", BERLIN)
    with pytest.raises(ConfigurationError, match="name one of them"):
        Cron.parse(f"CRON_TZ={BERLIN} 0 3 * * *", "UTC")


def test_schedule_is_checked_when_it_is_written_down() -> None:
    """All of its options."""
    assert Schedule("0 3 * * *", timezone=BERLIN).times == Cron("0 3 * * *", BERLIN)
    with pytest.raises(ConfigurationError, match="'skip', 'queue' or 'allow'"):
        Schedule("0 3 * * *", overlap="never")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="exclude each other"):
        Schedule("0 3 * * *", params={}, payload={})
