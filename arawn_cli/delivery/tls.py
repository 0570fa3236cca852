"""Verify TLS connections to a relay, and describe each failure in one sentence."""

from __future__ import annotations

import ssl
from pathlib import Path

from arawn_cli.config.relay_url import Address
from arawn_cli.errors import ConfigurationError
from arawn_cli.fs.files import read_small_file

# X509_V_ERR_* of OpenSSL's x509_vfy.h, which the ssl module does not name.
_NOT_YET_VALID = 9
_EXPIRED = 10
_UNKNOWN_ISSUER = frozenset({2, 18, 19, 20, 21, 24})
_WRONG_NAME = frozenset({62, 64})

# OpenSSL's reasons for an answer that is not a TLS record.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})

# A bundle of all authorities of a system is about 200 kB.
_MAX_BYTES = 16 * 1024 * 1024


def context_for(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that verifies certificate and host name.

    It trusts the system's authorities, or only those of a PEM file.

    Raises:
        ConfigurationError: the file cannot be read or holds no certificate.
    """
    # Not create_default_context: it would write the keys of the connection to $SSLKEYLOGFILE.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(cadata=read_small_file(ca_file, _MAX_BYTES).decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(f"maintenance.relay.ca_file: {ca_file} holds no certificate in PEM format") from error
    except OSError as error:
        raise ConfigurationError(f"maintenance.relay.ca_file: cannot read {ca_file}: {error.strerror}") from error
    return context


def describe(error: BaseException, address: Address, ca_file: Path | None) -> str | None:
    """Describe an error of TLS, or return None for any other error."""
    found = _find_ssl_error(error)
    if found is None:
        return None
    if isinstance(found, ssl.SSLCertVerificationError):
        return _describe_verification(found, address, ca_file)
    if found.reason in _NO_TLS:
        other = "http" if address.scheme == "https" else "ws"
        return f"{address.host} port {address.port} does not speak TLS; use {other}://, or the port that does"
    return f"TLS with {address.host} failed: {found.reason or found.strerror or found}"


def _describe_verification(error: ssl.SSLCertVerificationError, address: Address, ca_file: Path | None) -> str:
    code = error.verify_code
    if code == _EXPIRED:
        return f"the certificate of {address.host} has expired"
    if code == _NOT_YET_VALID:
        return f"the certificate of {address.host} is not valid yet; check the clock of this machine"
    if code in _WRONG_NAME:
        return f"the certificate of {address.host} is for another host"
    if code in _UNKNOWN_ISSUER:
        place = f"is not in {ca_file}" if ca_file else "the system does not know"
        return f"the certificate of {address.host} is signed by an authority that {place}; name the right one with ca_file"
    return f"the certificate of {address.host} is not accepted: {error.verify_message}"


def _find_ssl_error(error: BaseException) -> ssl.SSLError | None:
    """Return the error of the ssl module, which clients wrap in their own."""
    seen: set[int] = set()
    queue: list[object] = [error]
    while queue:
        candidate = queue.pop(0)
        if not isinstance(candidate, BaseException) or id(candidate) in seen:
            continue
        if isinstance(candidate, ssl.SSLError):
            # A connection that ends in the middle of the handshake broke: retry.
            return None if isinstance(candidate, (ssl.SSLEOFError, ssl.SSLZeroReturnError)) else candidate
        seen.add(id(candidate))
        queue += [*candidate.args, getattr(candidate, "reason", None), candidate.__cause__, candidate.__context__]
    return None
