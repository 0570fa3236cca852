"""Addresses of relays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.config.relay_url import Address, parse, redact, redact_value


def test_an_address_is_taken_apart() -> None:
    address = parse("wss://ann:s%40cret@relay.example:8443/pub/a?room=1")
    assert address == Address("wss", "relay.example", 8443, "/pub/a?room=1", "ann", "s@cret")
    assert (address.is_secure, address.is_websocket, address.carries_password) == (True, True, True)


@pytest.mark.parametrize(
    ("url", "port", "target"), [("http://h", 80, "/"), ("https://h/", 443, "/"), ("ws://h?x", 80, "/?x"), ("wss://h/a", 443, "/a")]
)
def test_ports_and_paths_have_defaults(url: str, port: int, target: str) -> None:
    assert (parse(url).port, parse(url).target) == (port, target)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ('http://h/a|b/{c}?d=<"^`\\>', "/a%7Cb/%7Bc%7D?d=%3C%22%5E%60%5C%3E"),
        ("http://h/a%2Fb?c=%22;d=@:/?!$&'()*+,", "/a%2Fb?c=%22;d=@:/?!$&'()*+,"),
    ],
)
def test_a_target_has_only_characters_that_a_request_may_have(url: str, target: str) -> None:
    assert parse(url).target == target


@pytest.mark.parametrize(
    "url",
    [
        "",
        "relay.test/pub",
        "ftp://relay.example/",
        "http://",
        "http:///pub",
        "http://h:0/",
        "http://h:99999/",
        "http://h:x/",
        "http://[::1/",
        "http://h/a b",
        "http://h/\n",
    ],
)
def test_what_no_relay_can_have_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="an address such as https") as caught:
        parse(url)
    assert not url or url not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("[::1]", True), ("localhost", True), ("10.0.0.1", False), ("localhost.example", False)],
)
def test_loopback_is_known(host: str, loopback: bool) -> None:
    assert parse(f"http://{host}/").is_loopback is loopback


@given(
    st.text(st.characters(codec="ascii", exclude_characters="/?#@[]:%", categories=["L", "N", "P", "S"]), min_size=1).map(
        lambda text: f"s3cr3t{text}"
    )
)
def test_no_representation_shows_password_or_query(secret: str) -> None:
    url = f"http://ann:{secret}@relay.example/pub?key={secret}"
    address = parse(url)
    for text in (str(address), repr(address).replace(repr(address.target), ""), redact(f"see {url} there"), redact_value(repr(url))):
        assert "s3cr3t" not in text
        assert "relay.example" in text


@pytest.mark.parametrize(
    "value", ["ann:s3cr3t@relay.example/x", "http://ann:s3cr3t/1@h/", "['http://ann:s3cr3t@h', 'ws://b:s3cr3t@h']", "http//ann:s3@cr3t@h"]
)
def test_a_malformed_address_is_shown_without_what_could_be_a_password(value: str) -> None:
    assert "cr3t" not in redact_value(repr(value))
