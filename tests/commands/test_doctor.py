"""`doctor`: what is here, and how to get the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from concepts_cli.cli import app
from concepts_cli.commands.doctor import doctor
from concepts_cli.training.at_hand import cached_models, device_words, devices


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """A hub cache with a supported model, another pipeline, and something that is none."""
    cache = tmp_path / "hub"
    for name, index in (
        ("a--xl", {"_class_name": "StableDiffusionXLPipeline"}),
        ("someone--sd", {"_class_name": "StableDiffusionPipeline"}),
        ("someone--flux", {"_class_name": "FluxPipeline"}),
        ("someone--text", None),
    ):
        snapshot = cache / f"models--{name}" / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (cache / f"models--{name}" / "refs").mkdir()
        (cache / f"models--{name}" / "refs" / "main").write_text("0" * 40)
        (snapshot / "config.json").write_text("{}")
        if index:
            (snapshot / "model_index.json").write_text(json.dumps(index))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def test_models_in_the_hubs_cache_are_found_if_they_are_supported(hub_cache, tmp_path, monkeypatch):
    assert cached_models() == ["someone/sd", "a/xl"]
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "nowhere"))
    assert cached_models() == []


def test_devices_end_with_the_cpu_and_have_words():
    assert devices()[-1].type == "cpu" and "CPU core" in device_words(devices()[-1])


def test_what_does_not_work_says_how_to_get_it(hub_cache, workplace, monkeypatch):
    monkeypatch.setattr("concepts_cli.commands.doctor.shutil.which", lambda name: None)
    monkeypatch.setattr("concepts_cli.commands.doctor.util.find_spec", lambda name: None)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    findings = {finding.what: finding for finding in doctor()}
    assert findings["other models"].here == "someone/sd, a/xl" and findings["built-in model"].works
    assert {"ucd", "libraries", "cpu", "hub cache", "image cache"} <= {n for n, f in findings.items() if f.works}
    assert {"daam", "Chromium", "hub login"} <= {name for name, finding in findings.items() if not finding.works}
    assert all(finding.works or finding.how for finding in findings.values())


def test_from_the_command_line(workplace):
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0 and result.stdout.startswith("what\tworks\there\thow to get it\nucd\tyes\t")
    findings = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)["findings"]
    assert {"what", "works", "here", "how"} == set(findings[0])
