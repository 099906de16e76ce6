"""URLs of servers: what they mean, what is refused, and that no error repeats a piece of one."""

from __future__ import annotations

import json
import string
import traceback
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dims.addresses import PostgresAddress, TlsMode, anchored, check_redis_url, parse_postgres_url
from dims.ipc.wire.sentences import read, written

MARKER = "Zq"  # stands in no message
passwords = st.text(string.ascii_letters + string.digits + string.punctuation + " ä", max_size=30)


def refusal(url: str, parse: Callable[[str], object] = parse_postgres_url) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is looked at)
        parse(url)
    assert caught.value.__context__ is None, "a hidden error could carry the URL along"
    return str(caught.value)


PLACES = {
    "postgresql://u@h": PostgresAddress("h", database="u", user="u"),
    "postgres://u:p@h:6432/db": PostgresAddress("h", 6432, "db", "u", "p"),
    "PostgreSQL://u@h/": PostgresAddress("h", database="u", user="u"),
    "postgresql://u:@h:/db": PostgresAddress("h", database="db", user="u"),
    "postgresql://u:a:b@c@h/db": PostgresAddress("h", database="db", user="u", password="a:b@c"),
    "postgresql://u%40x:%2F%23%3F%3A%25@h/my%20db": PostgresAddress(
        "h", database="my db", user="u@x", password="/#?:%"
    ),
    "postgresql://u@%2FRun%2FPg/db": PostgresAddress("/Run/Pg", database="db", user="u"),
    "postgresql://u@/db?host=/Run/Pg": PostgresAddress("/Run/Pg", database="db", user="u"),
    "postgresql://u@:5433/db?host=/run": PostgresAddress("/run", 5433, "db", "u"),
    "postgresql://u@h:1/db": PostgresAddress("h", 1, "db", "u"),
    "postgresql://u@h:65535/db": PostgresAddress("h", 65_535, "db", "u"),
    "postgresql://u@h/d?sslrootcert=system&sslmode=verify-full": PostgresAddress(
        "h", database="d", user="u", sslmode=TlsMode.VERIFY_FULL
    ),
    "postgresql://u@[::1]:5433/db": PostgresAddress("::1", 5433, "db", "u"),
    "postgresql://u@[fe80::1%25eth0]/db": PostgresAddress("fe80::1%eth0", 5432, "db", "u"),
    "postgresql://u@db_1.example.org/db": PostgresAddress("db_1.example.org", 5432, "db", "u"),
    "postgresql://u@h/d?sslmode=verify-ca&sslrootcert=/a+b/c%20d.pem": PostgresAddress(
        "h", database="d", user="u", sslmode=TlsMode.VERIFY_CA, sslrootcert="/a+b/c d.pem"
    ),
    "postgresql://u@h/d?sslcert=c&sslkey=k&application_name=x": PostgresAddress(
        "h", database="d", user="u", sslcert="c", sslkey="k"
    ),
    "postgresql://u@h/d?sslrootcert=system": PostgresAddress(
        "h", database="d", user="u", sslmode=TlsMode.VERIFY_FULL
    ),
}


@pytest.mark.parametrize("url", PLACES)
def test_a_url_names_a_place_and_a_user(url: str) -> None:
    assert parse_postgres_url(url) == PLACES[url]


REFUSED = {
    "": "not a URL such as postgresql://",
    "postgresql": "not a URL such as postgresql://",
    "mysql://u:secret@h/db": "not a URL such as postgresql://",
    "postgresql:u:secret@h": "not a URL such as postgresql://",
    "postgresql://h/db": "names no user",
    "postgresql://:secret@h/db": "names no user",
    "postgresql://u:secret@/db": "names no host",
    "postgresql://u@/db?host=": "the parameter host of the URL is empty",
    "postgresql://u@h/db?host=/run": "names the host twice",
    "postgresql://u@h1,h2/db": "several hosts",
    "postgresql://u@/db?host=run/pg": "a socket's directory begins with '/'",
    "postgresql://u@h:0/db": "no number from 1 to 65535",
    "postgresql://u@h:65536/db": "no number from 1 to 65535",
    "postgresql://u@h:5_0/db": "no number from 1 to 65535",
    "postgresql://u@h:-1/db": "no number from 1 to 65535",
    "postgresql://u@::1/db": "an IPv6 address stands in [ ]",
    "postgresql://u@[::1/db": "an IPv6 address looks like [::1]",
    "postgresql://u@[h]/db": "an IPv6 address looks like [::1]",
    "postgresql://u@[::1]x/db": "an IPv6 address looks like [::1]",
    "postgresql://u@h/a/b": "more than a database",
    "postgresql://u:se#cret@h/db": "write %23",
    "postgresql://u:se%cret@h/db": "write %25",
    "postgresql://u:se/cret@h/db": "%2F for '/'",
    "postgresql://u:se?cret@h/db": "%3F for '?'",
    "postgresql://u:se@x/cret@h/db": "%40 for '@'",
    "postgresql://u:se cret@h/db": "%20 for a space",
    "postgresql://u:secret@h/db\n": "a line end",
    "postgresql://u:%ff@h/db": "no UTF-8",
    "postgresql://u:%00@h/db": "no UTF-8",
    "postgresql://u@h/db?sslmode=verify_full": "Did you mean 'verify-full'?",
    "postgresql://u@h/db?sslmode": "the parameter sslmode of the URL is empty",
    "postgresql://u@h/db?sslmod=require": "unknown parameter. Did you mean 'sslmode'?",
    "postgresql://u@h/db?SSLMODE=require": "unknown parameter.",
    "postgresql://u@h/db?sslmode=disable&sslmode=require": "sslmode of the URL is there twice",
    "postgresql://u@h/db?sslkey=k": "sslcert and sslkey belong together",
    "postgresql://u@h/db?sslrootcert=system&sslmode=require": "wants sslmode=verify-full",
}


@pytest.mark.parametrize("url", REFUSED)
def test_what_is_no_place_is_refused_with_the_mend(url: str) -> None:
    text = refusal(url)
    assert REFUSED[url] in text
    assert "\n" not in text
    assert "cret" not in text


@given(user=passwords.filter(bool), password=passwords, database=passwords.filter(bool))
def test_what_is_encoded_comes_back(user: str, password: str, database: str) -> None:
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    address = parse_postgres_url(f"postgresql://{login}@h/{quote(database, safe='')}")
    assert (address.user, address.password, address.database) == (user, password, database)
    assert read(PostgresAddress, json.loads(json.dumps(written(address)))) == address


@given(
    before=passwords
    | st.sampled_from(["@x/", "@x/y?", "@x?", "@x?sslrootcert=", "@x#", "@[", "%"]),
    after=passwords,
    rest=st.sampled_from(["", "/db", "/db?sslmode=x", ":5"]),
)
def test_a_password_that_is_not_encoded_is_never_shown(before: str, after: str, rest: str) -> None:
    """Wherever the syntax puts its pieces: host, port, database, parameter."""
    for url in (f"postgresql://u:{before}{MARKER}{after}@h{rest}", f"redis://:{MARKER}{after}@h"):
        said = told(url)
        # The host, what is wrong, or what `told` says where nothing is shown.
        assert any(sign in said for sign in ("host='h'", "ValueError: ", "the URL itself"))
        assert MARKER not in said


def told(url: str) -> str:
    """All that anybody gets to see of it."""
    try:
        if url.startswith("redis"):
            assert check_redis_url(url) == url
            return "the URL itself, which stays a secret"
        return f"{parse_postgres_url(url)!r} {parse_postgres_url(url)}"
    except ValueError as error:
        return "".join(traceback.format_exception(error))


def test_an_address_for_people_has_no_password() -> None:
    address = parse_postgres_url("postgresql://u:secret@[::1]/db")
    assert str(address) == "u@[::1]:5432/db"
    assert "secret" not in repr(address)
    assert str(address.as_user("bot", "other")) == "bot@[::1]:5432/db"
    assert str(PostgresAddress("h")) == "h:5432/postgres"
    assert PostgresAddress("/run", 5433).socket == "/run/.s.PGSQL.5433"
    assert str(parse_postgres_url("postgresql://u:secret@%2Frun/db")) == "u@/run/db"


def test_an_address_for_somebody_else_has_his_password() -> None:
    address = parse_postgres_url("postgresql://u:secret@h/db")
    assert address.as_user("bot", "other") == PostgresAddress(
        "h", database="db", user="bot", password="other"
    )


def test_relative_files_are_anchored_and_nothing_else_changes(tmp_path: Path) -> None:
    directory = tmp_path / "a b@c"
    url = "postgresql://u:p%40@h/db?sslmode=require&sslrootcert=x%20y.pem&sslcert=/c&sslkey=../k"
    address = parse_postgres_url(anchored(url, directory))
    assert address.sslrootcert == f"{directory}/x y.pem"
    assert address.sslcert == "/c"
    assert address.sslkey == f"{directory}/../k"
    assert (address.password, address.sslmode) == ("p@", TlsMode.REQUIRE)
    for same in (
        "postgresql://u:p@h/db",
        "postgresql://u@h/db?sslrootcert=system",
        "postgresql://u@h/db?sslkey=",
    ):
        assert anchored(same, directory) == same


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://:p@h:6379/0",
        "rediss://u:p@[::1]:6380/15",
        "redis://h/",
        "unix:///run/redis.sock",
        "unix:///run/redis.sock?db=3",
    ],
)
def test_a_redis_url_is_itself(url: str) -> None:
    assert check_redis_url(url) == url


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("valkey://h", "not a URL such as redis://"),
        ("redis://:secret@", "names no host"),
        ("redis:///0", "names no host"),
        ("redis://:se/cret@h", "%2F for '/'"),
        ("redis://:se#cret@h", "write %23"),
        ("redis://h:0", "no number from 1 to 65535"),
        ("redis://h/first", "the database in the URL is no number"),
        ("unix://run/redis.sock", "names no socket"),
        ("unix://", "names no socket"),
    ],
)
def test_a_wrong_redis_url_is_refused_with_the_mend(url: str, text: str) -> None:
    told = refusal(url, check_redis_url)
    assert text in told
    assert "cret" not in told
