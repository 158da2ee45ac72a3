"""The key that signs the simulator's tokens, and the signature RS256 without a library.

The key was made for this file and protects nothing: its private half is public.
RFC 8017, section 8.2.1, is the signature; RFC 7517 and 7518 are the form of the public key.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

_P = int(
    "ce5a268b39985c25227311c96f1acf964baceeb45dbde2b0a59450160de12af7"
    "5f5a06bdcb28534a8b79758f8e7cec7eb3187eda83af5778eecc4ae11871933e"
    "8eb7f55a7976d362b54fc1031c178c01aa786cd2e5b87abd1704b9b9e5499cf2"
    "945549bf10f1a3d2625ff8a91203fe0e409c2e77fbca31421347de0b895d66cd",
    16,
)
_Q = int(
    "fde4168028e6111a0b8f3f6078d443bbd29fcec32910d9e97e72628d1557195d"
    "1c95b0cd9f6b0ed68bb8ff7be2a23e940f6225f53d71acfa52606b33092b60c7"
    "da17fba129e002c4e432002a652f9b739ed8357c2b2d4494a37704112227284f"
    "0baf33320df6c34f56a071b58c256aa5d316080954e0250926701993242d3a45",
    16,
)
_MODULUS, _EXPONENT = _P * _Q, 65537
_PRIVATE = pow(_EXPONENT, -1, (_P - 1) * (_Q - 1))
_PRIVATE_P, _PRIVATE_Q, _INVERSE = _PRIVATE % (_P - 1), _PRIVATE % (_Q - 1), pow(_Q, -1, _P)
_LENGTH = 256
# The DER encoding that says that a SHA-256 digest follows (RFC 8017, section 9.2).
_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")
KEY_ID = "simulator"


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def rs256(data: bytes) -> bytes:
    """The signature of `data`."""
    digest = _SHA256 + hashlib.sha256(data).digest()
    padded = b"\x00\x01" + b"\xff" * (_LENGTH - len(digest) - 3) + b"\x00" + digest
    number = int.from_bytes(padded, "big")
    # Modulo each prime, which is four times as fast (RFC 8017, section 5.1.2).
    one, two = pow(number, _PRIVATE_P, _P), pow(number, _PRIVATE_Q, _Q)
    return (two + _Q * ((one - two) * _INVERSE % _P)).to_bytes(_LENGTH, "big")


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
