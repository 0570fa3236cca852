"""TLS to a relay: always verified, and each way to fail told in one plain sentence."""

from __future__ import annotations

import errno
import os
import ssl
import stat
from pathlib import Path

from arawn_cli.config.relay_url import Address
from arawn_cli.errors import ConfigurationError

# X509_V_ERR_* of OpenSSL's x509_vfy.h, which the ssl module does not name.
_NOT_YET_VALID = 9


_EXPIRED = 10


# A bundle of all authorities of a system is about 200 kB.
_LARGEST_BYTES = 16 * 1024 * 1024


_UNKNOWN_ISSUER = frozenset({2, 18, 19, 20, 21, 24})


_WRONG_NAME = frozenset({62, 64})


# The reasons that OpenSSL gives when what comes back is no TLS record.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})


def context_for(ca_file: Path | None) -> ssl.SSLContext:
    """What verifies a relay's certificate and host name: the system's authorities, or those of a PEM file and no others.

    Raises:
        ConfigurationError: the file cannot be read or holds no certificate.
    """
    # Not create_default_context: it would write the keys of the connection to $SSLKEYLOGFILE.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(cadata=_read(ca_file))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(f"maintenance.relay.ca_file: {ca_file} holds no certificate in PEM form") from error
    except OSError as error:
        raise ConfigurationError(f"maintenance.relay.ca_file: cannot read {ca_file}: {error.strerror}") from error
    return context


def _read(ca_file: Path) -> str:
    """The file's text; one that is no regular file is not waited for."""
    descriptor = os.open(ca_file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no regular file")
        return os.read(descriptor, _LARGEST_BYTES).decode("ascii")
    finally:
        os.close(descriptor)


def sentence(error: BaseException, address: Address, ca_file: Path | None) -> str | None:
    """What an error says of TLS, or None when it does not."""
    found = _ssl_error(error)
    if found is None:
        return None
    if isinstance(found, ssl.SSLCertVerificationError):
        return _verification(found, address, ca_file)
    if found.reason in _NO_TLS:
        other = "http" if address.scheme == "https" else "ws"
        return f"{address.host} port {address.port} does not speak TLS; use {other}://, or the port that does"
    return f"TLS with {address.host} failed: {found.reason or found.strerror or found}"


def _verification(error: ssl.SSLCertVerificationError, address: Address, ca_file: Path | None) -> str:
    code = error.verify_code
    if code == _EXPIRED:
        return f"the certificate of {address.host} has expired"
    if code == _NOT_YET_VALID:
        return f"the certificate of {address.host} is not valid yet; is the clock of this machine right?"
    if code in _WRONG_NAME:
        return f"the certificate that {address.host} shows is for another host"
    if code in _UNKNOWN_ISSUER:
        known = f"{ca_file} does not hold" if ca_file else "the system does not know"
        return f"the certificate of {address.host} is signed by an authority that {known}; name the right one with ca_file"
    return f"the certificate of {address.host} is not accepted: {error.verify_message}"


def _ssl_error(error: BaseException) -> ssl.SSLError | None:
    """The ssl module's own error, which clients wrap in theirs."""
    seen: set[int] = set()
    queue: list[object] = [error]
    while queue:
        candidate = queue.pop(0)
        if not isinstance(candidate, BaseException) or id(candidate) in seen:
            continue
        if isinstance(candidate, ssl.SSLError):
            # An end in mid-handshake is a connection that broke, and may hold the next time.
            return None if isinstance(candidate, (ssl.SSLEOFError, ssl.SSLZeroReturnError)) else candidate
        seen.add(id(candidate))
        queue += [*candidate.args, getattr(candidate, "reason", None), candidate.__cause__, candidate.__context__]
    return None
