"""The signature of a delivery, verified by others: PyJWT and the Python SDK."""

import time
from base64 import urlsafe_b64encode
from hashlib import sha256

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qstash import Receiver
from qstash.errors import SignatureError

from batchflow.wire.signature import sign

CURRENT, NEXT = "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r", "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs"
NOW = 4_000_000_000_000
URL = 'https://example.com/größe?a="b"&c=1'


@given(st.text(min_size=32, max_size=40), st.text(), st.binary())
def test_any_library_verifies_a_signature(key: str, url: str, body: bytes) -> None:
    """For any key, URL and body."""
    token = sign(key, url, body, now_ms=NOW, id="1")
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    assert jwt.decode(token, key, algorithms=["HS256"], options={"verify_exp": False, "verify_iat": False}) == {
        "iss": "Upstash",
        "sub": url,
        "iat": NOW // 1000,
        "exp": NOW // 1000 + 300,
        "nbf": 0,
        "jti": "jwt_1",
        "body": urlsafe_b64encode(sha256(body).digest()).decode(),
    }


def test_the_receiver_of_the_python_sdk_takes_what_is_signed_and_nothing_else() -> None:
    """Neither another body, nor another URL, nor another key."""
    receiver = Receiver(CURRENT, NEXT)
    now = int(time.time() * 1000)
    receiver.verify(signature=sign(NEXT, URL, b"hi", now_ms=now, id="1"), body="hi", url=URL)
    for body, url, key in (("ho", URL, NEXT), ("hi", "https://example.com/", NEXT), ("hi", URL, "other")):
        with pytest.raises(SignatureError):
            receiver.verify(signature=sign(key, URL, b"hi", now_ms=now, id="1"), body=body, url=url)
