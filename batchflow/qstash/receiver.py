"""The verification of requests: that QStash has sent them, to this URL, with this body, and lately."""

from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from hmac import compare_digest
from typing import Any

from batchflow.errors import InputError

_REFUSED = "this request is not signed by QStash for this app"


class Receiver:
    """Verifies the signature of requests with the keys of an app, the current one and the next.

    `clock_tolerance` is the number of seconds by which the clocks of the app and of QStash may differ. The rules are
    those of https://upstash.com/docs/qstash/features/security.

    Raises:
        ValueError: there is no key.
    """

    def __init__(self, keys: Sequence[str], now: Callable[[], int], *, clock_tolerance: float = 0) -> None:
        if not all(keys) or not keys:
            raise ValueError("a receiver has at least one key")
        self._keys = tuple(keys)
        self._now = now
        self._tolerance_s = clock_tolerance

    def verify(self, signature: str | None, url: str, body: bytes) -> None:
        """Return for a request that QStash has signed.

        Raises:
            InputError: it has not, or not for this URL, or too long ago (401). The sentence does not say which.
        """
        claims = None if signature is None else self._claims(signature)
        if claims is None or not self._fits(claims, url, body):
            raise InputError(_REFUSED, status=401)

    def _claims(self, signature: str) -> dict[str, Any] | None:
        import jwt

        # The times are checked with the clock of the app, which tests set.
        options: Any = dict.fromkeys(("verify_exp", "verify_nbf", "verify_iat", "verify_sub", "verify_jti"), False)
        for key in self._keys:
            try:
                return jwt.decode(
                    signature,
                    key,
                    algorithms=["HS256"],
                    issuer="Upstash",
                    options=options,
                )
            except jwt.InvalidTokenError:
                continue
        return None

    def _fits(self, claims: dict[str, Any], url: str, body: bytes) -> bool:
        now = self._now() / 1000
        ends, begins, sent = claims["exp"], claims["nbf"], str(claims.get("body", ""))
        if not isinstance(ends, int | float) or not isinstance(begins, int | float):
            return False
        wanted = urlsafe_b64encode(sha256(body).digest()).decode().rstrip("=")
        return (
            begins - self._tolerance_s <= now < ends + self._tolerance_s
            and claims["sub"] == url
            and compare_digest(sent.rstrip("=").encode(), wanted.encode())
        )
