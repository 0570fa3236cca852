"""Asking a real relay whether it takes the token, with nothing published."""

from __future__ import annotations

import pytest
import urllib3

from arawn_cli import addresses
from arawn_cli.credentials import Token
from arawn_cli.sinks.probe import Probed, probe
from tests.relay_fixtures import TOKEN, Nchan, free_port, needs_nchan, shared_nchan

__all__ = ["shared_nchan"]


def probed(url: str, token: str | None, nchan: Nchan | None = None) -> Probed:
    authority = nchan.directory / "ca.pem" if nchan else None
    return probe(addresses.parse(url), Token(token) if token else None, authority, "", 5)


@needs_nchan
@pytest.mark.parametrize(
    ("path", "token", "fit", "words"),
    [
        ("/pub/probe", TOKEN, True, "is reachable and accepts the token"),
        ("/pub/probe", "wrong", False, "does not accept the token (401)"),
        ("/pub/probe", None, False, "wants a token (401), and none is configured"),
        ("/open/probe", None, True, "no token is configured"),
        ("/open/probe", TOKEN, None, "shows only when an event is sent"),
        ("/nowhere", TOKEN, False, "answers 404 to a POST"),
        ("/fail/503", TOKEN, False, "answers 503 to a POST"),
        ("/moved", TOKEN, False, "a redirect, which is never followed"),
        ("/drop", TOKEN, False, "closed the connection"),
    ],
)
def test_an_http_relay_is_asked_without_an_event(shared_nchan: Nchan, path: str, token: str | None, fit: bool | None, words: str) -> None:
    found = probed(shared_nchan.url(path), token)
    assert found.fit is fit
    assert words in found.text


@needs_nchan
def test_nothing_is_published_and_tls_is_verified(shared_nchan: Nchan) -> None:
    assert probed(shared_nchan.tls_url("/pub/quiet"), TOKEN, shared_nchan).fit is True
    assert "signed by an authority" in probed(shared_nchan.tls_url("/pub/quiet"), TOKEN).text
    assert probed(shared_nchan.url("/wspub/quiet", "ws"), None).fit is True
    published = urllib3.request("POST", shared_nchan.url("/open/quiet"), body=b"marker")
    assert published.status in (201, 202)
    assert shared_nchan.everything("quiet", "marker") == []


def test_a_relay_that_is_not_there_is_unfit() -> None:
    for scheme in ("http", "ws"):
        found = probed(f"{scheme}://127.0.0.1:{free_port()}/pub", None)
        assert found.fit is False
        assert "takes no connection: Connection refused" in found.text
