"""The verification of requests: that QStash has sent them, to this URL, with this body, and lately."""

import re
from base64 import urlsafe_b64encode
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from typing import Any, NoReturn

from batchflow.core.call import printable_url
from batchflow.core.duration import Duration, to_ms
from batchflow.core.secrets import printable_text
from batchflow.errors import ConfigurationError, InputError
from batchflow.logs import logger
from batchflow.serve.validation import type_with_article

REMEMBERED = 10_000
"""The number of requests that a receiver remembers."""

NOT_OF_QSTASH = "this request is not signed by QStash for this app"
"""The sentence that the sender of a refused request is told."""

REFUSAL_LOG = "[batchflow] A request was refused as not one of QStash"
"""The line that the log has of it, with the reason."""

_SECRET = re.compile(r"[!-~]+")
_UNSIGNED = "it has no signature"
_OTHER_KEYS = "it is not signed with the signing keys that this app has"
_MOST_TOLD = 16


class Receiver:
    """Verifies that QStash has signed a request, with the two signing keys of an account.

        @flow.serve("/onboarding", receiver=Receiver(current_signing_key="sig_…", next_signing_key="sig_…"))

    `clock_tolerance` is how far the clocks of the app and of QStash may be apart. The rules are those of
    https://upstash.com/docs/qstash/features/security. A request that is refused is not told why; the log says each
    reason once.

    Raises:
        ConfigurationError: a key is missing, or the tolerance is not valid.
    """

    def __init__(self, *, current_signing_key: str, next_signing_key: str, clock_tolerance: Duration = 0) -> None:
        for option, key in (("current_signing_key", current_signing_key), ("next_signing_key", next_signing_key)):
            check_secret(option, key)
        self._keys = (current_signing_key, next_signing_key)
        self._tolerance_s = to_ms(clock_tolerance, option="clock_tolerance") / 1000
        self._verified: dict[int, None] = {}
        self._told: set[str] = set()
        # A signature is checked before the body is read, and verified with it.
        self._claims = lru_cache(maxsize=128)(self._read_claims)

    def check(self, signature: str | None) -> None:
        """Check all that can be known without the body: that QStash has signed something.

        Raises:
            InputError: it has not (401).
        """
        self._claims_of(signature)

    def verify(self, signature: str | None, url: str, body: bytes, *, now: int) -> bool:
        """Return, for a request that QStash has signed for this URL and body, whether the same request has come before.

        `now` is in ms since the epoch. The last requests are remembered.

        Raises:
            InputError: it has not, or not for this URL, or too long ago (401). The sentence does not say which.
        """
        if (fault := self._fault(self._claims_of(signature), url, body, now / 1000)) is not None:
            self._refuse(fault)
        # Each delivery has claims of its own. What signs them, the last part, can be written in several ways.
        key = hash(str(signature).rpartition(".")[0])
        has_come = key in self._verified
        self._verified[key] = None
        if len(self._verified) > REMEMBERED:
            del self._verified[next(iter(self._verified))]
        return has_come

    def has_signed(self, signature: str | None, url: str, body: bytes, *, now: int) -> bool:
        """True for a request that QStash has signed for this URL and body, lately; nothing is refused or logged."""
        claims = None if signature is None else self._claims(signature)
        return claims is not None and self._fault(claims, url, body, now / 1000) is None

    def _claims_of(self, signature: str | None) -> dict[str, Any]:
        claims = None if signature is None else self._claims(signature)
        if claims is None:
            self._refuse(_UNSIGNED if signature is None else _OTHER_KEYS)
        return claims

    def _refuse(self, reason: str) -> NoReturn:
        # Strangers may send requests without end, and each is the first sign of a wrong setting.
        if reason not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(reason)
            logger().warning(REFUSAL_LOG, reason=reason)
        raise InputError(NOT_OF_QSTASH, status=401)

    def _read_claims(self, signature: str) -> dict[str, Any] | None:
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

    def _fault(self, claims: dict[str, Any], url: str, body: bytes, now: float) -> str | None:
        ends, begins, signed_for = claims.get("exp"), claims.get("nbf"), claims.get("sub")
        if not isinstance(ends, int | float) or not isinstance(begins, int | float):
            return "its signature does not say when it is valid"
        if signed_for != url:
            shown = printable_url(str(signed_for))
            said = f"it is signed for {shown}, and this app takes it for {url}"
            return printable_text(f"{said}; APP_URL has to be the URL that QStash calls")
        if not begins - self._tolerance_s <= now < ends + self._tolerance_s:
            return (
                "its signature is not valid now; it was sent again or late, or the clocks of the app and of QStash "
                "differ by more than clock_tolerance"
            )
        wanted = urlsafe_b64encode(sha256(body).digest()).decode().rstrip("=")
        if not compare_digest(str(claims.get("body", "")).rstrip("=").encode(), wanted.encode()):
            return "its body is not the one that was signed; a proxy may have changed it"
        return None


def check_secret(option: str, value: object) -> None:
    """Raise `ConfigurationError` unless `value` is a secret that a header can have. It is not shown."""
    want = "write it as QStash shows it"
    if value is None or value == "":
        raise ConfigurationError("is missing", option=option, want=want)
    if not isinstance(value, str):
        raise ConfigurationError(option=option, got=type_with_article(value), want=want)
    if not _SECRET.fullmatch(value):
        problem = "has a space, a line break or a letter that is not ASCII"
        raise ConfigurationError(problem, option=option, want=want)
