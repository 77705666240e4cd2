"""Calls silence other libraries, and give a notebook back everything that they changed."""

from __future__ import annotations

import logging
import sys
import threading
import warnings

import pytest
import tqdm
from tqdm.auto import tqdm as auto_tqdm

import concepts_cli as ucd
from concepts_cli.interface import run as interface_run
from concepts_cli.interface.silence import CallerOutput, silenced


def be_loud() -> None:
    """What libraries do while models are loaded and files downloaded."""
    from huggingface_hub.utils import tqdm as hub_tqdm

    logging.error("Failed to download weights")  # open_clip uses the root logger
    for name in ("diffusers.models", "huggingface_hub.file_download", "timm", "transformers.modeling_utils"):
        logging.getLogger(name).error("loud")
    for bar in (tqdm.tqdm, auto_tqdm, hub_tqdm):
        list(bar(range(2), disable=False))
    warnings.warn("deprecated", FutureWarning, stacklevel=1)


def state() -> tuple:
    loggers = [logging.getLogger(name) for name in (None, "diffusers", "huggingface_hub", "transformers")]
    return (
        [(logger.level, list(logger.handlers), list(logger.filters)) for logger in loggers],
        list(warnings.filters),
        tqdm.tqdm.__init__,
    )


@pytest.fixture
def plain_logging(monkeypatch):
    """The root logger as it is in a notebook: without handlers, and at its own level, which commands raise."""
    root, level = logging.getLogger(), logging.getLogger().level
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(sys, "warnoptions", [])
    root.setLevel(logging.WARNING)
    yield
    root.setLevel(level)


def test_a_call_prints_nothing_of_what_libraries_say(tiny_run, monkeypatch, capfd, plain_logging):
    run = ucd.open_run(tiny_run.path, device="cpu")
    monkeypatch.setattr(interface_run, "measure", lambda *_, **__: be_loud() or {"metrics": {}})
    run.evaluate("clip")  # the first call imports the libraries, which set up their loggers
    before = state()
    run.evaluate("clip")
    assert capfd.readouterr() == ("", "")
    assert state() == before


def test_own_warnings_and_the_callers_log_pass(plain_logging):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with silenced():
            CallerOutput().warn("a prompt is cut")
            warnings.warn("deprecated", FutureWarning, stacklevel=1)
        assert [str(warning.message) for warning in seen] == ["a prompt is cut"]
    heard = []
    handler = logging.Handler()
    handler.emit = heard.append
    logging.getLogger("mine").addHandler(handler)
    with silenced():
        logging.getLogger("mine").warning("mine")
    assert [record.msg for record in heard] == ["mine"]


def test_calls_may_overlap_in_threads(plain_logging):
    with silenced():
        pass
    before, entered, leave = state(), threading.Event(), threading.Event()

    def other():
        with silenced():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with silenced():
        thread.start()
        entered.wait()
    assert tqdm.tqdm.__init__ is not before[2], "the other call still is in progress"
    leave.set()
    thread.join()
    assert state() == before
