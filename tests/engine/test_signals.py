"""Ctrl-C during an orderly stop: it hurries the stop, and whoever handled it before is heard and put back."""

import asyncio
import signal
from collections.abc import Iterator

import pytest

from batchflow.engine.signals import on_signal
from tests.waiting import DEADLINE_S


class Interrupts:
    """A handler of SIGINT from before, and whether we were hurried."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.hurried = asyncio.Event()

    def before(self, number: int, frame: object) -> None:
        self.numbers.append(number)


@pytest.fixture
async def interrupts() -> Interrupts:
    return Interrupts()


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The handler that pytest or asyncio had is put back."""
    kept = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, kept)


async def test_an_interrupt_hurries_beside_the_handler_from_before(interrupts: Interrupts) -> None:
    """The previous handler is called each time, and restored at the end."""
    signal.signal(signal.SIGINT, interrupts.before)
    with on_signal(interrupts.hurried.set):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        async with asyncio.timeout(DEADLINE_S):
            await interrupts.hurried.wait()
    assert interrupts.numbers == [signal.SIGINT, signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) == interrupts.before


@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.SIG_DFL])
async def test_an_interrupt_hurries_where_nobody_handled_it(interrupts: Interrupts, before: signal.Handlers) -> None:
    """The process does not end of it; afterwards all is as it was, even if the body failed."""
    signal.signal(signal.SIGINT, before)
    with pytest.raises(RuntimeError, match=r"^ours$"), on_signal(interrupts.hurried.set):
        signal.raise_signal(signal.SIGINT)
        async with asyncio.timeout(DEADLINE_S):
            await interrupts.hurried.wait()
        raise RuntimeError("ours")
    assert signal.getsignal(signal.SIGINT) == before


async def test_a_handler_from_c_is_left_alone(interrupts: Interrupts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has only None for it, so that it could not be put back: it stays, and hears the interrupts."""
    signal.signal(signal.SIGINT, interrupts.before)
    with monkeypatch.context() as patched:
        # Only a program that embeds Python has such a handler.
        patched.setattr(signal, "getsignal", {signal.SIGINT: None}.get)
        with on_signal(interrupts.hurried.set):
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(0)
    assert interrupts.numbers == [signal.SIGINT]
    assert not interrupts.hurried.is_set()
    assert signal.getsignal(signal.SIGINT) == interrupts.before


async def test_another_thread_leaves_signals_alone(interrupts: Interrupts) -> None:
    """They cannot be had there."""
    signal.signal(signal.SIGINT, interrupts.before)

    def elsewhere() -> object:
        with on_signal(interrupts.hurried.set):
            return signal.getsignal(signal.SIGINT)

    assert await asyncio.to_thread(elsewhere) == interrupts.before
