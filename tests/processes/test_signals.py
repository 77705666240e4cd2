"""Signals are handled inside the block, and as before after it, whatever happens in it."""

import signal

import pytest

from concepts_cli.processes.signals import handled, signals_noted, termination_interrupts


def test_handlers_are_put_back_after_an_exception():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), handled(lambda *_: None, signal.SIGTERM):
        signal.raise_signal(signal.SIGTERM)
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_termination_is_an_interrupt():
    with pytest.raises(KeyboardInterrupt), termination_interrupts():
        signal.raise_signal(signal.SIGTERM)


def test_a_first_signal_is_noted_and_a_later_one_interrupts(monkeypatch):
    monkeypatch.setattr("concepts_cli.processes.signals.ONE_KEYSTROKE_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt), signals_noted() as noted:
        signal.raise_signal(signal.SIGINT)
        assert len(noted) == 1
        signal.raise_signal(signal.SIGINT)
