"""Sources of the token, and places where it must not appear."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arawn_cli.config.relay_url import parse
from arawn_cli.delivery.credentials import Secrets, Token, token_for
from arawn_cli.errors import ConfigurationError

SECURE = parse("https://relay.example/pub")


def found(
    token_file: Path | None = None, url: str = "https://relay.example/pub", *, allow_insecure: bool = False, **environment: str
) -> str | None:
    token = token_for(parse(url), token_file, environment, allow_insecure=allow_insecure)
    return token.value if token else None


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "relay.token"
    path.write_text("from-file\n")
    path.chmod(0o600)
    return path


def test_the_first_source_that_has_a_token_wins(tmp_path: Path, token_file: Path) -> None:
    (tmp_path / "relay-token").write_text("from-systemd\n")
    assert found(token_file, CREDENTIALS_DIRECTORY=str(tmp_path), ARAWN_RELAY_TOKEN="from-variable") == "from-systemd"
    assert found(token_file, CREDENTIALS_DIRECTORY=str(tmp_path / "none"), ARAWN_RELAY_TOKEN="from-variable") == "from-variable"
    assert found(token_file, ARAWN_RELAY_TOKEN="") == "from-file"
    assert found() is None


def test_a_credential_of_systemd_may_show_group_bits_which_stand_for_an_acl(tmp_path: Path) -> None:
    (tmp_path / "relay-token").write_text("from-systemd")
    (tmp_path / "relay-token").chmod(0o440)
    assert found(CREDENTIALS_DIRECTORY=str(tmp_path)) == "from-systemd"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_token_file_that_is_open_to_others_is_refused(token_file: Path, mode: int) -> None:
    token_file.chmod(mode)
    with pytest.raises(ConfigurationError, match=rf"open to others \(mode {mode:04o}\): run chmod 600") as caught:
        found(token_file)
    assert "from-file" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", "t\u00f6ken".encode(), b"a\x00b", b"x" * 20_000])
def test_a_token_that_no_header_can_carry_is_an_error(token_file: Path, content: bytes) -> None:
    token_file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"is empty|holds no token|larger than"):
        found(token_file)


def test_a_token_file_that_is_missing_or_not_a_regular_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        found(tmp_path / "missing")
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConfigurationError, match="not a regular file"):
        found(tmp_path / "fifo")


@pytest.mark.parametrize("url", ["http://relay.example/pub", "ws://10.0.0.7/pub"])
def test_no_secret_crosses_a_network_in_plain_text_unasked(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"a token would cross the network in plain text; use (https|wss)://"):
        found(url=url, ARAWN_RELAY_TOKEN="t")
    with pytest.raises(ConfigurationError, match="a password would cross"):
        found(url=url.replace("://", "://ann:pw@"))
    assert found(url=url, allow_insecure=True, ARAWN_RELAY_TOKEN="t") == "t"
    assert found(url=url) is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/pub", "ws://localhost/pub", "http://[::1]/pub", "wss://relay.example/pub"])
def test_loopback_and_tls_may_carry_a_token(url: str) -> None:
    assert found(url=url, ARAWN_RELAY_TOKEN="t") == "t"


def test_a_token_and_a_password_exclude_each_other() -> None:
    with pytest.raises(ConfigurationError, match="cannot both be sent") as caught:
        found(url="https://ann:s3cret@relay.example/", ARAWN_RELAY_TOKEN="t0ken")
    assert "s3cret" not in str(caught.value)


def test_a_token_has_no_representation() -> None:
    assert "abc" not in f"{Token('abc')} {Token('abc')!r}"
    assert "abc" not in repr(Secrets.of(parse("https://relay.example/"), Token("abc")))


@pytest.mark.parametrize("kind", ["directory", "dangling link", "closed folder"])
def test_a_credential_that_exists_and_cannot_be_read_is_an_error(tmp_path: Path, kind: str) -> None:
    credential = tmp_path / "relay-token"
    if kind == "directory":
        credential.mkdir()
    elif kind == "dangling link":
        credential.symlink_to(tmp_path / "nowhere")
    else:
        credential.symlink_to(credential)
    with pytest.raises(ConfigurationError, match="token file"):
        found(CREDENTIALS_DIRECTORY=str(tmp_path), ARAWN_RELAY_TOKEN="another")
