"""The client of Apprise: addresses, the meaning of its log, secrets, and a child process that
ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.delivery import apprise_client
from arawn_cli.delivery.apprise_client import Address, AppriseClient, addresses_from, interpret, missing_apprise, without_address
from arawn_cli.delivery.message import Delivered, Failed, OutgoingEvent, Refused
from arawn_cli.errors import ConfigurationError
from tests.support.notify_servers import JsonServer, silent_port

MESSAGE = OutgoingEvent("id", "notification", "t", "s", b'{"title": "Title", "body": "line 1\\nline 2", "type": "warning"}')


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
        (["A Connection error"], ["Socket Exception: (535, b'no')"], Refused("A Connection error SMTP 535")),
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
    assert AppriseClient(Address(1, json_server.url)).send([MESSAGE], 30) == Delivered()
    (message,) = json_server.messages
    assert (message["title"], message["message"], message["type"]) == ("Title", "line 1\nline 2", "warning")


def test_a_refusal_is_told_without_the_address(json_server: JsonServer) -> None:
    json_server.status = 404
    result = AppriseClient(Address(1, f"{json_server.url}/topsecret")).send([MESSAGE], 30)
    assert isinstance(result, Refused)
    assert "404" in result.answer
    assert "topsecret" not in result.answer


def test_a_server_that_hangs_costs_no_more_than_its_time() -> None:
    with silent_port() as port:
        result = AppriseClient(Address(1, f"json://127.0.0.1:{port}/")).send([MESSAGE], 2)
    assert result == Failed("no answer within 2 s; the message may have arrived", retryable=False)


def test_an_attempt_without_time_does_not_hide_why_the_one_before_failed() -> None:
    with silent_port(listens=False) as port:
        client = AppriseClient(Address(1, f"json://127.0.0.1:{port}/"))
        first = client.send([MESSAGE], 30)
        second = client.send([MESSAGE], 0.01)
    assert isinstance(first, Failed)
    assert first.retryable
    assert second == Failed(first.reason, retryable=False)


@pytest.mark.parametrize("use_proxy", [True, False])
def test_a_proxy_of_the_environment_is_used_if_the_configuration_lets_it(
    json_server: JsonServer, monkeypatch: pytest.MonkeyPatch, use_proxy: bool
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{json_server.port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    result = AppriseClient(Address(1, "json://notify.invalid/x"), use_proxy=use_proxy).send([MESSAGE], 30)
    assert isinstance(result, Delivered) is use_proxy
    assert json_server.requests == (["http://notify.invalid/x"] if use_proxy else [])


def test_an_unknown_service_is_a_failure() -> None:
    result = AppriseClient(Address(1, "nosuchservice://x")).send([MESSAGE], 30)
    assert result == Failed("Apprise does not understand this address", retryable=False)


def test_without_apprise_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(apprise_client, "find_spec", lambda _name: None)
    assert missing_apprise() == f"{sys.executable} -m pip install apprise"
    with pytest.raises(ConfigurationError):
        AppriseClient(Address(1, "json://localhost"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / "pipx_metadata.json").touch()
    assert missing_apprise() == "pipx inject arawn-cli apprise"


def test_the_address_is_no_argument_of_a_process(json_server: JsonServer) -> None:
    json_server.delay = 2
    code = (
        "from tests.unit.delivery.test_apprise_client import MESSAGE, Address, AppriseClient\n"
        f"AppriseClient(Address(1, {json_server.url!r} + '/topsecret')).send([MESSAGE], 30)"
    )
    with subprocess.Popen([sys.executable, "-"], stdin=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        parent.stdin.write(code)
        parent.stdin.close()
        json_server.wait_for_request()
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert any(b"arawn_cli.delivery.apprise_client" in line for line in lines)
    assert not any(b"topsecret" in line for line in lines)
