"""An interrupt while a process is being started is deferred until the process is recorded."""

from __future__ import annotations

import signal
import threading

import pytest

from nfagent.system.interrupts import deferred_interrupts


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT], ids=["Ctrl-C"])
def test_an_interrupt_takes_effect_at_the_end_of_the_block(number: signal.Signals) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - what comes after the signal is what is asked
        with deferred_interrupts():
            signal.raise_signal(number)
            done.append("the rest of the block")
        done.append("what comes after it")
    assert done == ["the rest of the block"]
    assert signal.getsignal(number) is signal.default_int_handler


def test_without_an_interrupt_the_handlers_are_those_of_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with deferred_interrupts():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_in_another_thread_nothing_is_changed() -> None:
    during: list[object] = []

    def look() -> None:
        with deferred_interrupts():
            during.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert during == [before]
