"""Read the secrets, and keep them out of logs, the state file and plain-text connections.

The first of these sources of the relay's token is used: the file `relay-token` in
`$CREDENTIALS_DIRECTORY` (systemd.exec(5), `LoadCredential=`), `$ARAWN_RELAY_TOKEN`, and the file
that `[maintenance.relay] token_file` names. The addresses of notifications are read from the
credential `notify-urls`, or the file that `[maintenance.notify] urls_file` names.
"""

from __future__ import annotations

import json
import os
import stat
from base64 import b64encode
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from arawn_cli.config.relay_url import Address
from arawn_cli.errors import ConfigurationError
from arawn_cli.fs.files import is_kept, read_small_file

CREDENTIAL = "relay-token"
NOTIFY_CREDENTIAL = "notify-urls"
VARIABLE = "ARAWN_RELAY_TOKEN"

_MAX_BYTES = 16_384

_MIN_SECRET_LENGTH = 3

_kept: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Token:
    """A secret that no representation shows."""

    value: str = field(repr=False)

    def __str__(self) -> str:
        return "***"


@dataclass(frozen=True, slots=True)
class Secrets:
    """Secrets to remove from a relay's answers, since a relay may repeat what it was sent.

    `forms` are the token, user and password, and the query of the address, as such and as JSON,
    HTML and URLs write them.
    """

    forms: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, address: Address, token: Token | None, proxy: Address | None = None) -> Secrets:
        """Collect the secrets of one relay, and of the proxy on the way to it."""
        query = address.target.partition("?")[2]
        values = [part.partition("=")[2] for part in query.split("&")]
        plain = [token.value if token else "", query, *values]
        for end in (address, proxy):
            if end is not None and end.carries_password:
                plain += (end.password, basic(end).partition(" ")[2])
        return cls.of_texts(plain)

    @classmethod
    def of_texts(cls, plain: Iterable[str]) -> Secrets:
        """Take secret texts; short ones are ignored, since they are part of too many words."""
        forms = {form for secret in plain for form in _forms(secret) if len(form) >= _MIN_SECRET_LENGTH}
        return cls(tuple(sorted(forms, key=len, reverse=True)))

    def removed_from(self, text: str) -> str:
        """Return a text without them."""
        for form in self.forms:
            text = text.replace(form, "***")
        return text


def _forms(secret: str) -> tuple[str, ...]:
    import html  # only a client needs it

    decoded = unquote(secret)
    in_urls = (quote(secret), quote(secret, safe=""), quote(decoded, safe=""))
    return (secret, decoded, *in_urls, json.dumps(secret)[1:-1], html.escape(secret))


def authorization(address: Address, token: Token | None) -> dict[str, str]:
    """Return the `Authorization` header, or no header.

    It holds the token (RFC 6750), or user and password of the address (RFC 7617).
    """
    if token is not None:
        return {"Authorization": f"Bearer {token.value}"}
    if address.carries_password:
        return {"Authorization": basic(address)}
    return {}


def basic(address: Address) -> str:
    """Return user and password of an address as a header has them (RFC 7617)."""
    return "Basic " + b64encode(f"{address.user}:{address.password}".encode()).decode("ascii")


def token_for(address: Address, token_file: Path | None, environment: Mapping[str, str], *, allow_insecure: bool) -> Token | None:
    """Return the token for a relay, or None if no source has one.

    Raises:
        ConfigurationError: a source exists and cannot be used, a token file is readable by others,
            or the secret would cross a network in plain text.
    """
    token = secret_of(environment, CREDENTIAL, VARIABLE)
    if token is None and token_file is not None:
        token = _parse(_read(token_file, "token file"), f"the token file {token_file}")
    if token is not None and address.carries_password:
        raise ConfigurationError(f"relay {address}: a token and a user with password cannot both be sent; remove one of them")
    secret = "a token" if token is not None else "a password" if address.carries_password else None
    if secret and not address.is_secure and not address.is_loopback and not allow_insecure:
        raise ConfigurationError(
            f"relay {address}: {secret} would cross the network in plain text; use {'wss' if address.is_websocket else 'https'}://, "
            "or set maintenance.relay.allow_insecure = true"
        )
    return token


def secret_of(environment: Mapping[str, str], credential: str, variable: str) -> Token | None:
    """Return a secret from a systemd credential or else from a variable.

    Raises:
        ConfigurationError: it exists and cannot be used.
    """
    if (path := _credential(environment, credential)) is not None:
        return _parse(_read(path, "token file", is_credential=True), f"the credential {path}")
    value = with_kept_variables(environment).get(variable)
    return _parse(value.encode("utf-8", "surrogateescape"), f"${variable}") if value else None


def keep_variables(environment: MutableMapping[str, str]) -> None:
    """Move secrets (the token, URLs with a password) from the environment to memory.

    The account of this process can read the variables of the programs that it starts (proc(5)).
    """
    for name, value in list(environment.items()):
        if name == VARIABLE or (name.lower().endswith(("_proxy", "_url")) and "@" in value):
            _kept[name] = environment.pop(name)


def with_kept_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with the variables that `keep_variables` moved."""
    return {**_kept, **environment}


def credential_file(environment: Mapping[str, str], credential: str) -> Path | None:
    """Return the path of a credential of the systemd service of this process; it may not exist."""
    directory = environment.get("CREDENTIALS_DIRECTORY")
    return Path(directory) / credential if directory else None


def notify_urls(file: Path, environment: Mapping[str, str]) -> bytes:
    """Return the content of the file of notification addresses, or of its credential.

    Raises:
        ConfigurationError: it cannot be read, or the file is readable by others.
    """
    path = _credential(environment, NOTIFY_CREDENTIAL)
    return _read(path or file, "file of addresses", is_credential=path is not None)


def _credential(environment: Mapping[str, str], name: str) -> Path | None:
    path = credential_file(environment, name)
    return path if path is not None and (is_kept(path) or os.path.lexists(path)) else None


def _read(path: Path, what: str, *, is_credential: bool = False) -> bytes:
    """Read a file, and check the permissions of the same open file.

    Those of a credential are not checked: systemd gives a service with `User=` access by an ACL,
    which shows as group bits.
    """

    def check(status: os.stat_result) -> None:
        if not is_credential and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            mode = stat.S_IMODE(status.st_mode)
            raise ConfigurationError(f"the {what} {path} is open to others (mode {mode:04o}): run chmod 600 on it")

    try:
        return read_small_file(path, _MAX_BYTES, check)
    except OSError as error:
        raise ConfigurationError(f"cannot read the {what} {path}: {error.strerror}") from error


def _parse(value: bytes, source: str) -> Token:
    """Return a token that an HTTP header can carry; an error never repeats it."""
    text = value.strip()
    if not text:
        raise ConfigurationError(f"{source} is empty")
    if len(text) > _MAX_BYTES or any(byte <= 0x20 or byte >= 0x7F for byte in text):
        raise ConfigurationError(f"{source} holds no token: one word of printable ASCII is allowed")
    return Token(text.decode("ascii"))
