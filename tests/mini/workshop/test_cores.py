"""Threads follow what others leave."""

import pytest
import torch

from concepts_cli.mini.workshop.cores import IdleCores


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("others", "expected"), [(0.1, 4), (1.0, 3), (2.6, 1), (4.0, 1)])
def test_leaves_the_cores_of_others(monkeypatch, others, expected):
    cores = IdleCores(seconds=0.0)
    cores.cores, cores.last = 4, (0.0, 0.0, 0.0)
    monkeypatch.setattr(cores, "_times", lambda: (10.0, 10 * others + 7.0, 7.0))
    torch.set_num_threads(2)
    assert cores.adapt() == expected == torch.get_num_threads()


def test_looks_only_now_and_then():
    assert IdleCores(seconds=1e9).adapt() is None
