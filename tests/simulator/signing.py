"""The key that signs the simulator's tokens, and the signature RS256 without a library.

The key was made for this file and protects nothing: its private half is public.
RFC 8017, section 8.2.1, defines the signature, RFC 7517 and 7518 the public key's form.
"""

from __future__ import annotations

import base64
import hashlib
import math
from typing import Any

# Eight primes instead of two (RFC 8017, section 3.1), because that signs seven times as fast, and
# almost every test signs tokens.
_PRIMES = [
    0xE6B96C40A9EBCCC59F7059383E2A03A8B3D9D68E178586A25D60F0685656ED45,
    0xFB6BFDCBE0A95717801D8DEADA3EFD0DEA5C2D707156E2CA6F07009E5D1F7F95,
    0xFE22D599E5B2BEE5EF2E1A2367F68A5E5F412F1E4E555E4B13375D87BD0BBAFD,
    0xEDB9260A9D4166D21C2BDC7BE48E72082E4AE1F405065CBC4491D88F83A0F825,
    0xFE832EA85E94BCB5B3968421BF2B77360997558C5C7CFA3E87E7EBCE6255D84D,
    0xDE72839BFD0DDA7F8C105AD8986EE01D7019444F7D27E147F8FEE33E1BD27525,
    0xE7FDFE810D9C1A29078AD402A48A5F533DB95A3EC918B8E52E799785E5674EE1,
    0xCEAAF1571E74B33FA8D17D63DC7C4ED89E1F65E309A6EAEA7EE0E48A7DCD4717,
]
_MODULUS, _EXPONENT = math.prod(_PRIMES), 65537
_PRIVATE = pow(_EXPONENT, -1, math.prod(prime - 1 for prime in _PRIMES))
# Each prime, its exponent, and a number that is 1 modulo this prime and 0 modulo the others.
_PARTS = [
    (prime, _PRIVATE % (prime - 1), others * pow(others, -1, prime))
    for prime in _PRIMES
    for others in [_MODULUS // prime]
]
_LENGTH = 256
# The DER encoding that precedes a SHA-256 digest (RFC 8017, section 9.2).
_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")
KEY_ID = "simulator"


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def rs256(data: bytes) -> bytes:
    """The signature of `data`."""
    digest = _SHA256 + hashlib.sha256(data).digest()
    padded = b"\x00\x01" + b"\xff" * (_LENGTH - len(digest) - 3) + b"\x00" + digest
    number = int.from_bytes(padded, "big")
    # The Chinese remainder theorem (RFC 8017, section 5.1.2).
    signature = sum(pow(number, exponent, prime) * one for prime, exponent, one in _PARTS)
    return (signature % _MODULUS).to_bytes(_LENGTH, "big")


def public_key() -> dict[str, Any]:
    """The public half as a JSON Web Key."""
    return {
        "kty": "RSA",
        "use": "sig",
        "alg": "RS256",
        "kid": KEY_ID,
        "n": base64url(_MODULUS.to_bytes(_LENGTH, "big")),
        "e": base64url(_EXPONENT.to_bytes(3, "big")),
    }
