"""The certificate that a server shows, and its private key."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from densepack_runtime.errors import InputError


@dataclass(frozen=True, slots=True)
class Certificate:
    """Two PEM files that fit each other; `chain` begins with the server's own certificate."""

    chain: Path
    key: Path

    @classmethod
    def read(cls, chain: Path | None, key: Path | None) -> Certificate | None:
        """Check both files, or return None where neither is named. Raises InputError for what cannot be used."""
        if chain is None and key is None:
            return None
        if chain is None or key is None:
            raise InputError("TLS needs both files: name --tls-cert and --tls-key")
        for file in (chain, key):
            try:
                file.read_bytes()
            except OSError as error:
                raise InputError(f"{file} cannot be read: {error.strerror}") from error
        try:
            # Without a password here, OpenSSL would ask the terminal for that of an encrypted key.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key, password="")
        except ssl.SSLError as error:
            why = (error.reason or "they are not PEM, or the key is encrypted").replace("_", " ").lower()
            raise InputError(f"{chain} and {key} are no certificate with its unencrypted key: {why}") from error
        return cls(chain, key)
