"""The size limit of values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflow.core.codec import NO_SIZE_LIMIT, SizeLimit
from batchflow.errors import InputError, TooLarge


@given(st.text(max_size=60), st.integers(1, 100))
def test_a_limit_counts_bytes(text: str, most: int) -> None:
    """Of UTF-8: what has as many as are allowed is within, whatever its characters are; one more is too large."""
    limit, size = SizeLimit(most), len(text.encode())
    if size <= most:
        limit.check(text, "it")
    else:
        with pytest.raises(TooLarge):
            limit.check(text, "it")
    # What the one comparison lets through never has to be counted.
    assert len(text) > limit.safe_chars or size <= most


def test_what_is_too_large_is_told_in_one_sentence() -> None:
    """Whose it is, how large it is, what is allowed, what to do; it is an error of the input."""
    with pytest.raises(InputError) as caught:
        SizeLimit(1_024).check("ä" * 1_000, "step 'load'")
    assert str(caught.value) == (
        "step 'load': 2,000 bytes are more than BATCHFLOW_MAX_VALUE allows (1,024); "
        "store it elsewhere and pass a reference on, or raise the setting"
    )
    assert (caught.value.status, caught.value.code, caught.value.retryable) == (413, "too_large", False)


def test_nothing_is_too_large_without_a_limit() -> None:
    """As for what is bounded in another way."""
    NO_SIZE_LIMIT.check("x" * 3_000_000, "it")
