"""The client of Apprise: addresses, the meaning of its log, secrets, and a child process that
ends."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.delivery import apprise_client, credentials
from arawn_cli.delivery.apprise_client import Address, AppriseClient, addresses_from, interpret, missing_apprise, without_address
from arawn_cli.delivery.message import Delivered, Failed, OutgoingEvent, Refused, SendResult
from arawn_cli.errors import ConfigurationError
from tests.support.notify_servers import JsonServer, silent_port

MESSAGE = OutgoingEvent("id", "notification", "t", "s", b'{"title": "Title", "body": "line 1\\nline 2", "type": "warning"}')


def sent(url: str, seconds: float = 30, *, use_proxy: bool = True) -> SendResult:
    with closing(AppriseClient(Address(1, url), use_proxy=use_proxy)) as client:
        return client.send([MESSAGE], seconds)


def write(file: Path, text: str, mode: int = 0o600) -> Path:
    file.write_bytes(text.encode())
    file.chmod(mode)
    return file


def test_addresses_are_lines_without_comments(tmp_path: Path) -> None:
    text = "\ufeff# people\n\nmailto://a:b@mail.example/#x  \n  ntfys://ntfy.example/topic\r\n#json://off\n"
    found = addresses_from(write(tmp_path / "urls", text), {})
    assert [(address.number, address.url) for address in found] == [(1, "mailto://a:b@mail.example/#x"), (2, "ntfys://ntfy.example/topic")]
    assert str(found[1]) == "address 2 (ntfys)"
    assert "topic" not in repr(found)


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("json://localhost\n", 0o644, "is open to others (mode 0644): run chmod 600 on it"),
        ("json://localhost\nsecret-word\n", 0o600, "line 2: no address"),
        ("# nobody\n", 0o600, "has no address"),
    ],
)
def test_a_file_of_addresses_that_cannot_be_used_is_an_error_without_its_content(
    tmp_path: Path, text: str, mode: int, message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        addresses_from(write(tmp_path / "urls", text, mode), {})
    assert message in str(caught.value)
    assert "secret-word" not in str(caught.value)


def test_a_credential_of_systemd_comes_before_the_file(tmp_path: Path) -> None:
    write(tmp_path / "notify-urls", "json://credential\n", 0o440)
    (address,) = addresses_from(tmp_path / "missing", {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert address.url == "json://credential"
    with pytest.raises(ConfigurationError, match="cannot read the file of addresses"):
        addresses_from(tmp_path / "missing", {})


@pytest.mark.parametrize(
    ("warnings", "causes", "result"),
    [
        (["Failed to send JSON: error=403."], [], Refused("Failed to send JSON: error=403.")),
        (["Failed to send JSON: error=429."], [], Failed("Failed to send JSON: error=429.", retryable=False)),
        (["Failed to send JSON: error=503."], [], Failed("Failed to send JSON: error=503.", retryable=False)),
        (["A Connection error"], ["Socket Exception: [Errno 111] Connection refused"], Failed("it cannot be reached: A Connection error")),
        (["A Connection error"], ["Socket Exception: timed out"], Failed("A Connection error", retryable=False)),
        (["Failed to send JSON: error=401."], [], Failed("Failed to send JSON: error=401.", retryable=False)),
        (["Failed to send JSON: error=407."], [], Failed("Failed to send JSON: error=407.", retryable=False)),
        (["A Connection error"], ["Socket Exception: (550, b'no')"], Refused("A Connection error SMTP 550")),
        (["A Connection error"], ["Socket Exception: (535, b'no')"], Failed("A Connection error SMTP 535", retryable=False)),
        ([], [], Failed("Apprise gives no reason", retryable=False)),
    ],
)
def test_the_log_of_apprise_says_whether_another_attempt_may_succeed(
    warnings: list[str], causes: list[str], result: Refused | Failed
) -> None:
    assert interpret(warnings, causes, "json://host") == result


_PART = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=3, max_size=12)


@given(st.lists(_PART, min_size=1, max_size=6), st.sampled_from("/:@?&="), st.booleans())
def test_no_part_of_an_address_is_told(parts: list[str], separator: str, encoded: bool) -> None:
    url = f"tgram://{separator.join(map(quote, parts))}"
    text = without_address(f"~~ {' ~~ '.join(quote(part) if encoded else part for part in parts)} ~~", url)
    assert not any(part in text for part in parts)


def test_a_message_arrives_with_its_lines(json_server: JsonServer) -> None:
    assert sent(json_server.url) == Delivered()
    (message,) = json_server.messages
    assert (message["title"], message["message"], message["type"]) == ("Title", "line 1\nline 2", "warning")


def test_a_refusal_is_told_without_the_address(json_server: JsonServer) -> None:
    json_server.status = 404
    result = sent(f"{json_server.url}/topsecret")
    assert isinstance(result, Refused)
    assert "404" in result.answer
    assert "topsecret" not in result.answer


def test_a_server_that_hangs_costs_no_more_than_its_time() -> None:
    with silent_port() as port:
        result = sent(f"json://127.0.0.1:{port}/", 2)
    assert result == Failed("no answer within 2 s; the message may have arrived", retryable=False)


@pytest.mark.parametrize("use_proxy", [True, False])
def test_a_proxy_of_the_environment_is_used_if_the_configuration_lets_it(
    json_server: JsonServer, monkeypatch: pytest.MonkeyPatch, use_proxy: bool
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{json_server.port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    result = sent("json://notify.invalid/x", use_proxy=use_proxy)
    assert isinstance(result, Delivered) is use_proxy
    assert json_server.requests == (["http://notify.invalid/x"] if use_proxy else [])


def test_of_the_secrets_of_root_a_service_gets_only_the_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"ARAWN_RELAY_TOKEN": "token", "ARAWN_CLOACINA_URL": "postgres://user:word@host/d", "HTTPS_PROXY": "http://user:word@proxy"}
    monkeypatch.setattr(credentials, "_kept", kept)
    for name in (*kept, "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(apprise_client, "_send_with_apprise", lambda *_: Refused(" ".join(sorted(kept.keys() & os.environ.keys()))))
    assert sent("json://localhost") == Refused("HTTPS_PROXY")
    assert not kept.keys() & os.environ.keys()


def test_an_unknown_service_is_a_failure() -> None:
    result = sent("nosuchservice://x")
    assert result == Failed("Apprise does not understand this address", retryable=False)


def test_without_apprise_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(apprise_client, "find_spec", lambda _name: None)
    assert missing_apprise() == f"{sys.executable} -m pip install apprise"
    with pytest.raises(ConfigurationError):
        AppriseClient(Address(1, "json://localhost"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / "pipx_metadata.json").touch()
    assert missing_apprise() == "pipx inject arawn-cli apprise"


def test_apprise_that_fails_or_ends_without_a_result_is_a_failure_without_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_address(url: str, _message: object) -> None:
        raise RuntimeError(url)

    for send, reason in ((raise_address, "Apprise failed with RuntimeError"), (lambda *_: os._exit(1), "Apprise ended without a result")):
        monkeypatch.setattr(apprise_client, "_send_with_apprise", send)
        result = sent("json://localhost/topsecret")
        assert isinstance(result, Failed)
        assert (result.reason.partition(";")[0], result.retryable) == (reason, False)


def test_messages_to_one_address_share_a_process_which_ends_with_the_client(json_server: JsonServer) -> None:
    before = psutil.Process().children()
    with closing(AppriseClient(Address(1, json_server.url))) as client:
        during = psutil.Process().children()
        assert [client.send([MESSAGE], 30) for _ in range(2)] == [Delivered()] * 2
        assert psutil.Process().children() == during
        (process,) = set(during) - set(before)
    assert not process.is_running()
    assert len(json_server.messages) == 2


def test_a_process_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(ConfigurationError, match="cannot start a process for Apprise: Resource temporarily unavailable"):
        AppriseClient(Address(1, "json://localhost"))
