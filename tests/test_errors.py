"""The words that errors share."""

from concepts_cli.errors import did_you_mean, first_line


def test_the_nearest_name_is_suggested():
    assert did_you_mean("samle", ("sample", "train")) == "did you mean sample?"
    assert did_you_mean("demo2", ("demo",), prefix="runs/") == "did you mean runs/demo?"
    assert did_you_mean("xyz", ("sample", "train")) == "known: sample, train"
    assert did_you_mean("xyz", ("sample", "train"), otherwise="name a command") == "name a command"


def test_the_first_line_of_an_error_or_its_type():
    assert first_line(OSError("no network\nat all")) == "no network"
    assert first_line(KeyError()) == "KeyError"
