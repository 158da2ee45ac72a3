"""Choose the certificates that TLS connections trust. A process reads them once."""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import ssl
import sys
from pathlib import Path

from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.text import printable

# Environment variables that name certificates to trust in addition to the system's.
SETTINGS = ("SSL_CERT_FILE", "SSL_CERT_DIR", "CODEX_CA_CERTIFICATE")

# Files in which Linux distributions and the BSDs store all trusted certificates.
_BUNDLES = (
    "/etc/ssl/cert.pem",  # Alpine, Arch, Fedora, the BSDs
    "/etc/pki/tls/cert.pem",  # older Fedora, RHEL
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # newer Fedora
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu
    "/etc/ssl/ca-bundle.pem",  # openSUSE
)


def tls_context() -> ssl.SSLContext:
    """Return the context of every TLS connection, with the system's and the user's certificates.

    Raises ChatGPTError for a file that cannot be read or holds no certificate.
    """
    # A forked child builds its own: another thread may have been using the parent's at the fork.
    return _build_context(os.getpid(), tuple(os.environ.get(name) for name in SETTINGS))


@functools.cache
def _build_context(_process: int, paths: tuple[str | None, ...]) -> ssl.SSLContext:
    context: ssl.SSLContext
    if sys.platform in ("darwin", "win32"):
        import truststore

        context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    else:
        # Not truststore, which reads the system's file again for every connection.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _trust_system(context)
    for name, path in zip(SETTINGS, paths, strict=True):
        if not path:
            continue
        argument = "capath" if name == "SSL_CERT_DIR" else "cafile"
        try:
            context.load_verify_locations(**{argument: path})
        except OSError as error:
            reason = "no certificate in it" if isinstance(error, ssl.SSLError) else error.strerror
            raise ChatGPTError(
                f"Could not read the certificates in {printable(path)} ({reason}).",
                f"Correct or unset {name}.",
            ) from error
    return context


def _trust_system(context: ssl.SSLContext) -> None:
    """Trust the certificates in the system's folder, and those in its file if there are more.

    OpenSSL reads a certificate from the folder only when it needs it. Loading the file takes about
    15 ms (docs/benchmarks.md). The file has more if a user has appended certificates by hand.
    """
    defaults = ssl.get_default_verify_paths()
    in_folder: set[int] = set()
    with contextlib.suppress(OSError):
        context.load_verify_locations(capath=defaults.openssl_capath)
        # `openssl rehash` creates links with such names; other tools may create two for one file.
        links = glob.glob(f"{defaults.openssl_capath}/????????.[0-9]")
        in_folder = {os.stat(link).st_ino for link in links}
    for bundle in (defaults.openssl_cafile, *_BUNDLES):
        with contextlib.suppress(OSError):
            if Path(bundle).read_bytes().count(b"-----BEGIN ") > len(in_folder):
                context.load_verify_locations(cafile=bundle)
            return
