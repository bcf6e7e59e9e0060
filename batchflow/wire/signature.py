"""The signature of a request, as QStash makes it: a JWT about the URL and the body."""

from base64 import urlsafe_b64encode
from hashlib import sha256

SIGNATURE = "Upstash-Signature"
"""The header of the signature."""

_LIFETIME_S = 300


def sign(key: str, url: str, body: bytes, *, now_ms: int, id: str) -> str:
    """The signature of a request to `url` with this body; `id` tells it from others."""
    # Imported when used: few programs sign.
    import jwt

    now = now_ms // 1000
    claims = {
        "iss": "Upstash",
        "sub": url,
        "iat": now,
        "exp": now + _LIFETIME_S,
        # QStash sends 0: the receiver's clock may be slow.
        "nbf": 0,
        "jti": f"jwt_{id}",
        "body": urlsafe_b64encode(sha256(body).digest()).decode(),
    }
    return jwt.encode(claims, key, algorithm="HS256")
