"""Settings: what they take, and how they are told."""

from traceback import format_exception

import pytest

from batchflow import Batchflow
from batchflow.errors import BatchflowError, ConfigurationError
from batchflow.settings import Settings

PLACES = {
    "sqlite:///jobs.db": "sqlite:///jobs.db",
    "sqlite:////data/a?b@c.db": "sqlite:////data/a?b@c.db",
    "redis://localhost:6379/1": "redis://localhost:6379/1",
    "redis://:secret@localhost": "redis://localhost",
    "rediss://ada:sec@ret@localhost:6380/2?ssl_cert_reqs=none": "rediss://ada@localhost:6380/2",
    "redis://localhost?password=secret": "redis://localhost",
    "unix://ada:secret@/run/redis.sock?db=1": "unix://ada@/run/redis.sock",
    "redis+sentinel://ada:secret@one:1,two:2/main/0": "redis+sentinel://ada@one:1,two:2/main/0",
    "redis://secret@localhost": "redis://localhost",
    "redis://ada:sec/ret@localhost/0": "redis://ada@localhost/0",
    "redis://ada:sec?ret@localhost/0": "redis://…",
    "redis://localhost/0?password=sec@ret": "redis://…",
    "redis://ada:secret": "redis://ada:…",
    "redis://ada:secret@[::1]:6379/0": "redis://ada@[::1]:6379/0",
    "redis//ada:secret@localhost": "redis//ada@localhost",
    "postgres://ada:secret@localhost/db": "postgres://ada@localhost/db",
    "secret@localhost": "localhost",
}


@pytest.mark.parametrize(("url", "place"), PLACES.items(), ids=PLACES)
def test_a_place_shows_no_password(url: str, place: str) -> None:
    """It is the URL where there is none."""
    assert Settings.load(url=url).display_url == place


def test_the_settings_of_an_app_show_no_password() -> None:
    """Neither the store's, nor the ledger's, nor that of the public URL, whoever prints them."""
    settings = Settings.load(
        url="redis://ada:s3cr3t@one:1", ledger="redis://two:2/0?password=s3cr3t", app_url="https://ada:s3cr3t@app.test"
    )
    shown = f"{settings!r} {settings}"
    assert "s3cr3t" not in shown
    assert ("redis://ada@one:1" in shown, "redis://two:2/0" in shown, "https://app.test" in shown) == (True, True, True)


@pytest.mark.parametrize(
    "url", ["postgres://ada:s3cr3t@h", "redis//ada:s3cr3t@h", "redis://ada:s3cr3t@h:x", "s3cr3t@h"]
)
def test_a_url_that_is_refused_shows_no_password(url: str) -> None:
    """As a store and as a ledger, with all causes of the error."""
    for store, ledger in ((url, None), ("sqlite://", url)):
        with pytest.raises(BatchflowError) as caught:
            Batchflow(store, ledger=ledger)
        lines = [line for line in format_exception(caught.value) if not line.startswith("  File")]
        assert "s3cr3t" not in "".join(lines)


@pytest.mark.parametrize("name", ["mail", "mail-eu.1_a:b@c", "x" * 80])
def test_a_workers_name_is_letters_and_digits(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """And some marks between them."""
    monkeypatch.setenv("BATCHFLOW_WORKER_NAME", name)
    assert Batchflow("sqlite://").settings.worker_name == name


@pytest.mark.parametrize("name", ["", "my worker", "a\n", "naïve", "x" * 81])
def test_a_workers_name_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It says what to write."""
    monkeypatch.setenv("BATCHFLOW_WORKER_NAME", name)
    with pytest.raises(ConfigurationError) as caught:
        Batchflow("sqlite://")
    assert str(caught.value) == (
        f"the setting 'worker_name' (BATCHFLOW_WORKER_NAME) cannot be {name!r}: "
        "write 1 to 80 letters, digits, '-', '_', '.', ':' and '@'"
    )


NO_URLS = {
    "foo": "write an absolute URL, such as https://app.example.com",
    "app.example.com/api": "write an absolute URL, such as https://app.example.com",
    "/api": "write an absolute URL, such as https://app.example.com",
    "ftp://h": "write an absolute URL, such as https://app.example.com",
    "https://": "write an absolute URL, such as https://app.example.com",
    "https://h:port": "write an absolute URL, such as https://app.example.com",
    "https://[": "write an absolute URL, such as https://app.example.com",
    "https://h/a?b": "write it without a query and a fragment",
}


@pytest.mark.parametrize("variable", ["APP_URL", "BATCHFLOW_APP_URL"])
@pytest.mark.parametrize("url", NO_URLS)
def test_an_app_url_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, url: str, variable: str) -> None:
    """When the app is made, with the variable's name; nobody would ever reach what is put below it."""
    monkeypatch.setenv(variable, url)
    with pytest.raises(ConfigurationError) as caught:
        Batchflow("sqlite://")
    assert str(caught.value) == (
        f"the setting 'app_url' (APP_URL or BATCHFLOW_APP_URL) cannot be {url.replace('?b', '?…')!r}: {NO_URLS[url]}"
    )


def test_an_app_url_that_is_empty_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As compose files have it."""
    monkeypatch.setenv("APP_URL", "")
    assert Batchflow("sqlite://").settings.app_url is None


@pytest.mark.parametrize("size", ["1023", "268435457", "1 MiB"])
def test_a_limit_of_values_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    """From 1 KiB up to what a server of Redis takes with ease."""
    monkeypatch.setenv("BATCHFLOW_MAX_VALUE", size)
    with pytest.raises(ConfigurationError, match=r"the setting 'max_value' \(BATCHFLOW_MAX_VALUE\) cannot be "):
        Batchflow("sqlite://")


WRONG_VALUES = {
    "BATCHFLOW_CONCURRENCY=many": "write a whole number from 1 to 100,000",
    "BATCHFLOW_THREADS=0": "write a whole number from 1 to 1,000",
    "BATCHFLOW_MAX_BODY=1": "write a whole number of 1,024 or more",
    "BATCHFLOW_MAX_IDS=1e3x": "write a whole number of 1 or more",
    "BATCHFLOW_SYNCHRONOUS=off": "write FULL or NORMAL",
    "BATCHFLOW_ADMIN_ACCESS=all": "write loopback or app",
    "BATCHFLOW_LOG_LEVEL=loud": "write DEBUG, INFO, WARNING, ERROR or CRITICAL",
    "BATCHFLOW_ALWAYS_REPLAY=maybe": "write true or false",
    "BATCHFLOW_GRACE=soon": "write a duration, such as '30s' or '7d'",
    "BATCHFLOW_GRACE=99999d": "write a duration of at most 36500d, such as '30s' or '7d'",
    "BATCHFLOW_RETENTION=0": "write a duration of more than nothing, such as '7d'",
    "BATCHFLOW_TOKEN=": "cannot have this value: write letters, digits and signs of ASCII",
    "BATCHFLOW_ALLOWED_ORIGINS=app": "write origins such as https://app.example.com",
    "BATCHFLOW_PUSH_ALLOW=lan": "write networks such as '10.0.0.0/8', 'private' or 'loopback'",
    "BATCHFLOW_EGRESS=proxy=ftp://h": "cannot have this value: write host=http://address:port or proxy=http://host:port",
}


@pytest.mark.parametrize(("variable", "want"), WRONG_VALUES.items(), ids=WRONG_VALUES)
def test_a_wrong_value_is_told_with_what_to_write(monkeypatch: pytest.MonkeyPatch, variable: str, want: str) -> None:
    """In one sentence, with the variable."""
    name, _, value = variable.partition("=")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        Batchflow("sqlite://")
    sentence = str(caught.value)
    assert (f"({name}) cannot " in sentence, want in sentence, "nput should" in sentence) == (True, True, False)


def test_a_bool_is_not_a_number() -> None:
    """True would be one run at a time."""
    with pytest.raises(ConfigurationError, match="cannot be True"):
        Batchflow("sqlite://", concurrency=True)


def test_the_addresses_of_deliveries_are_those_of_two_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """None that is not public without them, or if they are empty; the password of a proxy is not shown."""
    monkeypatch.setenv("BATCHFLOW_PUSH_ALLOW", "")
    monkeypatch.setenv("BATCHFLOW_EGRESS", "")
    assert Settings.load().push.allows("10.1.2.3") is False
    monkeypatch.setenv("BATCHFLOW_PUSH_ALLOW", "private, 127.0.0.1")
    monkeypatch.setenv("BATCHFLOW_EGRESS", "proxy=http://ada:s3cr3t@proxy.internal:3128")
    settings = Settings.load()
    assert [settings.push.allows(it) for it in ("10.1.2.3", "127.0.0.1", "127.0.0.2")] == [True, True, False]
    assert settings.push.proxy == "http://ada:s3cr3t@proxy.internal:3128"
    assert "s3cr3t" not in repr(settings)


def test_words_are_taken_in_any_case() -> None:
    """As people write them."""
    settings = Settings.load(synchronous="normal", log_level="debug")
    assert (settings.synchronous, settings.log_level) == ("NORMAL", "DEBUG")
