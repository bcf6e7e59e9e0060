"""The suite's own assertions explain themselves when they fail."""

import pytest

pytest.register_assert_rewrite("batchflow.testing.conformance")
