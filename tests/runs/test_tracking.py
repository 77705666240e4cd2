"""Following a run: accelerate's trackers and the hub, with stand-ins for what needs a network."""

from __future__ import annotations

import json

import pytest

from concepts_cli.commands.train import plan, train
from concepts_cli.errors import UcdError
from concepts_cli.output import Output
from concepts_cli.recipe import load_recipe
from concepts_cli.runs import trackers as tracking
from concepts_cli.runs.run import Run

QUIET = Output(quiet=True)


def test_tensorboard_gets_the_losses_the_settings_and_the_previews(workplace, recipe_file):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    changes = ["train.trackers=tensorboard", "train.preview_every=3", "train.preview_images=1"]
    run = train(load_recipe(recipe_file, changes), device="cpu", out=QUIET)
    folders = {path.parent for path in (run.path / "logs").rglob("events.out.*")}
    events = [accumulator.EventAccumulator(str(folder)).Reload() for folder in folders]
    scalars = {tag for event in events for tag in event.Tags()["scalars"]}
    assert {"loss", "learning_rate"} <= scalars
    assert [value.step for event in events if "loss" in event.Tags()["scalars"] for value in event.Scalars("loss")] == [
        1,
        2,
        3,
    ]
    assert any("preview" in event.Tags()["images"] for event in events)
    assert "train.learning_rate: 0.01" in next((run.path / "logs").rglob("hparams.yml")).read_text()


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_done(workplace, recipe_file, monkeypatch):
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    recipe = load_recipe(recipe_file, ["train.trackers=[wandb, comet_ml]"])
    for refuse in (plan, lambda recipe: train(recipe, device="cpu", out=QUIET)):
        with pytest.raises(UcdError, match=r"wandb, comet_ml not installed") as caught:
            refuse(recipe)
        assert caught.value.hint == "pip install wandb comet-ml"
    assert not (workplace / "runs").exists()


class Hub:
    """Takes down what is published: the content of each file by its name."""

    def __init__(self, error: Exception | None = None):
        self.error, self.files = error, {}

    def __call__(self) -> Hub:
        return self

    def create_repo(self, name, exist_ok):
        if self.error:
            raise self.error
        from huggingface_hub import RepoUrl

        return RepoUrl(f"https://huggingface.co/{name}")

    def upload_folder(self, repo_id, folder_path, commit_message, ignore_patterns):
        from huggingface_hub.utils import filter_repo_objects

        names = [path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*") if path.is_file()]
        for name in filter_repo_objects(names, ignore_patterns=ignore_patterns):
            self.files[name] = (folder_path / name).read_bytes()

    def upload_file(self, path_or_fileobj, path_in_repo, repo_id):
        self.files[path_in_repo] = path_or_fileobj


def test_a_finished_run_is_published_without_checkpoints_and_without_paths(workplace, recipe_file, monkeypatch):
    hub = Hub()
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    changes = ["train.push_to_hub=me/mine", "train.preview_every=3", "train.preview_images=1"]
    run = train(load_recipe(recipe_file, changes), output=workplace / "run", device="cpu", out=QUIET)
    assert {"README.md", "recipe.yaml", "concepts.safetensors", "embeddings/t1.safetensors"} <= hub.files.keys()
    assert "previews/step-000003.png" in hub.files
    assert not any(name.startswith(("checkpoints", ".")) for name in hub.files)
    card = hub.files["README.md"].decode()
    assert "load_textual_inversion('me/mine', weight_name='embeddings/t1.safetensors')" in card
    naming = {name for name, content in hub.files.items() if str(workplace).encode() in content}
    assert not naming and str(workplace) in (run.path / "images.jsonl").read_text(), "only here, paths are whole"
    lines = [json.loads(line) for line in hub.files["images.jsonl"].splitlines()]
    assert [line["path"] for line in lines] == [f"{n}.png" for n in range(6)]
    (run.path / "recipe.yaml").write_bytes(hub.files["recipe.yaml"])
    assert Run(run.path).recipe.concepts == run.recipe.concepts, "what is published is a recipe"


def test_without_a_login_nothing_is_begun_and_a_refusal_keeps_the_run(workplace, recipe_file, monkeypatch):
    recipe = load_recipe(recipe_file, ["train.push_to_hub=me/mine"])
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    for refuse in (plan, lambda recipe: train(recipe, device="cpu", out=QUIET)):
        with pytest.raises(UcdError, match="not logged in"):
            refuse(recipe)
    assert not (workplace / "runs").exists()
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_stand_in")
    monkeypatch.setattr("huggingface_hub.HfApi", Hub(OSError("no network\nat all")))
    with pytest.raises(UcdError, match="could not publish to me/mine: no network$") as caught:
        train(recipe, device="cpu", out=QUIET)
    assert caught.value.exit_code == 1 and "--resume" in caught.value.hint
    assert (workplace / "runs" / "tiny" / "concepts.safetensors").is_file()
