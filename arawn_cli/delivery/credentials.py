"""The relay's token: where it may stand, and where it must not go.

Sources, first wins: the file `relay-token` in `$CREDENTIALS_DIRECTORY` (systemd.exec(5), `LoadCredential=`),
`$ARAWN_RELAY_TOKEN`, and the file that `[maintenance.relay] token_file` names.
"""

from __future__ import annotations

import html
import json
import os
import stat
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from arawn_cli.config.relay_url import Address
from arawn_cli.errors import ConfigurationError

CREDENTIAL = "relay-token"


VARIABLE = "ARAWN_RELAY_TOKEN"


_LIMIT_BYTES = 16_384


# Shorter ones are part of too many words to be told apart from them.
_SHORTEST_SECRET = 3


_READABLE_BY_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Token:
    """A secret that no representation shows."""

    value: str = field(repr=False)

    def __str__(self) -> str:
        return "***"


@dataclass(frozen=True, slots=True)
class Secrets:
    """What must not get from a relay's answer into a log or the state: a relay may say back what it was sent.

    `forms` are the token, user and password, and the query of the address, each as such and as JSON, HTML and URLs write it.
    """

    forms: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, address: Address, token: Token | None) -> Secrets:
        """The secrets of one relay."""
        pair = f"{address.user}:{address.password}" if address.carries_password else ""
        query = address.target.partition("?")[2]
        values = [value for part in query.split("&") for value in (part.partition("=")[2],)]
        plain = (token.value if token else "", address.password, pair and b64encode(pair.encode()).decode("ascii"), query, *values)
        forms = {form for secret in plain for form in _forms(secret) if len(form) >= _SHORTEST_SECRET}
        return cls(tuple(sorted(forms, key=len, reverse=True)))

    def removed_from(self, text: str) -> str:
        """A text without them."""
        for form in self.forms:
            text = text.replace(form, "***")
        return text


def _forms(secret: str) -> tuple[str, ...]:
    return (secret, unquote(secret), quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1], html.escape(secret))


def token_for(address: Address, token_file: Path | None, environment: Mapping[str, str], *, allow_insecure: bool) -> Token | None:
    """The token that goes with each connection, or None when no source has one.

    Raises:
        ConfigurationError: a source is there and cannot be used, a token file is open to others, or the
            secret would cross a network in plain text.
    """
    token = secret_of(environment, CREDENTIAL, VARIABLE) or _from_file(token_file)
    if token is not None and address.carries_password:
        raise ConfigurationError(f"relay {address}: a token and a user with password cannot both be sent; remove one of them")
    secret = "a token" if token is not None else "a password" if address.carries_password else None
    if secret and not address.is_secure and not address.is_loopback and not allow_insecure:
        raise ConfigurationError(
            f"relay {address}: {secret} would cross the network in plain text; use {_secured(address.scheme)}, "
            "or set maintenance.relay.allow_insecure = true"
        )
    return token


def secret_of(environment: Mapping[str, str], credential: str, variable: str) -> Token | None:
    """A secret that systemd passed on as a credential or, failing that, a variable holds.

    Raises:
        ConfigurationError: it is there and cannot be used.
    """
    return _from_directory(environment, credential) or _from_variable(environment, variable)


def _secured(scheme: str) -> str:
    return "wss://" if scheme == "ws" else "https://"


def _from_directory(environment: Mapping[str, str], name: str) -> Token | None:
    """What systemd put there. Its mode is not asked for: a service with a `User=` is let in by an ACL, which shows as group bits."""
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    path = Path(directory) / name
    if not os.path.lexists(path):
        return None
    return _checked(_read(path, private=False), f"the credential {path}")


def _from_variable(environment: Mapping[str, str], name: str) -> Token | None:
    value = environment.get(name)
    return _checked(value.encode("utf-8", "surrogateescape"), f"${name}") if value else None


def _from_file(path: Path | None) -> Token | None:
    return None if path is None else _checked(_read(path, private=True), f"the token file {path}")


def _read(path: Path, *, private: bool) -> bytes:
    """The file's bytes, after its permissions were judged on the same open file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigurationError(f"cannot read the token file {path}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigurationError(f"the token file {path} is no regular file")
        if private and status.st_mode & _READABLE_BY_OTHERS:
            mode = stat.S_IMODE(status.st_mode)
            raise ConfigurationError(f"the token file {path} is open to others (mode {mode:04o}): run chmod 600 on it")
        return os.read(descriptor, _LIMIT_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read the token file {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _checked(value: bytes, source: str) -> Token:
    """A token as an HTTP header can carry it; an error never repeats it."""
    text = value.strip()
    if not text:
        raise ConfigurationError(f"{source} is empty")
    if len(text) > _LIMIT_BYTES or any(byte <= 0x20 or byte >= 0x7F for byte in text):
        raise ConfigurationError(f"{source} holds no secret: one word of printable ASCII is allowed")
    return Token(text.decode("ascii"))
