"""Frames of user code are told apart from those of libraries, and named."""

import json
import pathlib

import pydantic
import pytest

from batchflow.core import frames


@pytest.mark.parametrize(
    "path",
    [frames.__file__, json.__file__, pydantic.__file__, pathlib.__file__, "<frozen importlib._bootstrap>"],
)
def test_files_of_libraries_are_told(path: str) -> None:
    """Of batchflow, of installed packages, of the standard library."""
    assert frames.is_library(path)


@pytest.mark.parametrize(
    "path", [__file__, "/srv/app/reviews.py", "C:\\app\\reviews.py", "/home/lib/reviews.py", "<stdin>"]
)
def test_files_of_the_user_are_told(path: str) -> None:
    """Wherever they are."""
    assert not frames.is_library(path)


def test_a_place_has_file_line_and_function() -> None:
    """On every system."""
    assert frames.place("/srv/app/reviews.py", 41, "execute") == "reviews.py:41 in execute"
    assert frames.place("C:\\app\\reviews.py", 41, "execute") == "reviews.py:41 in execute"
