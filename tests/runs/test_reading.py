"""A run folder from elsewhere is input: it is read or refused by name, and nothing waits or ends in a traceback."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors.torch import save_file

from concepts_cli.errors import UcdError
from concepts_cli.runs.run import Run
from tests.runs.folder import (
    IMAGE,
    TOKENS,
    read_everything,
    small_run,
    write_checkpoint,
    write_concepts,
    write_images,
    write_weights,
)

NAN, INFINITY = float("nan"), float("inf")
HUGE = "9" * 5000


@pytest.fixture
def folder(tmp_path) -> Path:
    return small_run(tmp_path / "run").path


def replaced(name, make):
    """Put something else where the run's file is."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def line(text: str):
    return lambda folder: (folder / "images.jsonl").write_text(text + "\n")


HOSTILE_NAMES = [
    *("<../../../x>", "</tmp/x>", "<a/b>", "<a\\b>", "<..>", "<.>", "<.hidden>", "<>", "< >", "<a b>", "t1", "<t1", ""),
    *("<a\x1b[31m>", "<a\nb>", "<a\0b>", "<\u202ea>", "<\ud800>", "<all>", "<a:b>", f"<{'x' * 300}>", f"<{'é' * 100}>"),
]

DAMAGES = {
    **{
        f"the name {name[:20]!r}": lambda folder, name=name: write_concepts(folder, tokens=["<t1>", name])
        for name in HOSTILE_NAMES
    },
    "a name given twice": lambda folder: write_concepts(folder, tokens=["<t1>", "<t1>"]),
    "names that differ only in case": lambda folder: write_concepts(folder, tokens=["<t1>", "<T1>"]),
    "names that are numbers": lambda folder: write_concepts(folder, tokens=[1, 2]),
    "no names": lambda folder: write_concepts(folder, tokens=[]),
    "names in a mapping": lambda folder: write_concepts(folder, tokens={"<t1>": 0, "<t2>": 1}),
    "names nested too deeply": lambda folder: save_file(
        {"embeddings": torch.ones(2, 4)}, folder / "concepts.safetensors", {"tokens": "[" * 100_000}
    ),
    "no metadata": lambda folder: save_file({"embeddings": torch.ones(2, 4)}, folder / "concepts.safetensors"),
    "more names than embeddings": lambda folder: write_concepts(folder, tokens=["<t1>", "<t2>", "<t3>"]),
    "embeddings of another name": lambda folder: write_concepts(folder, name="emb"),
    "embeddings in four dimensions": lambda folder: write_concepts(folder, torch.ones(2, 4, 1, 1)),
    "embeddings without width": lambda folder: write_concepts(folder, torch.ones(2, 0)),
    "an embedding that is a number": lambda folder: write_concepts(folder, torch.tensor(1.0)),
    "whole numbers as embeddings": lambda folder: write_concepts(folder, torch.ones(2, 4, dtype=torch.int64)),
    "NaN in an embedding": lambda folder: write_concepts(folder, torch.tensor([[1.0, NAN], [1, 1]])),
    "infinity in an embedding": lambda folder: write_concepts(folder, torch.tensor([[1.0, INFINITY], [1, 1]])),
    "infinity in half precision": lambda folder: write_concepts(folder, torch.full((2, 4), INFINITY).half()),
    "weights of another name": lambda folder: write_weights(folder, name="w"),
    "weights of another run": lambda folder: write_weights(folder, torch.ones(2, 2)),
    "weights of concepts with other names": lambda folder: write_weights(folder, tokens=["<t2>", "<t1>"]),
    "whole numbers as weights": lambda folder: write_weights(folder, torch.ones(3, 2, dtype=torch.int32)),
    "NaN in a weight": lambda folder: write_weights(folder, torch.full((3, 2), NAN)),
    "no images": lambda folder: write_images(folder, count=0),
    "an image without a hash": lambda folder: write_images(folder, {"sha256": ""}),
    "an image with a hash that is none": lambda folder: write_images(folder, {"sha256": "x" * 64}),
    "an image with a path that is a number": lambda folder: write_images(folder, {"path": 3}),
    "an image with a path that ends early": lambda folder: write_images(folder, {"path": "a\0b.png"}),
    "an image without a path": lambda folder: write_images(folder, {"path": ""}),
    "an image without width": lambda folder: write_images(folder, {"width": 0}),
    "an image that is as wide as true": lambda folder: write_images(folder, {"width": True}),
    "an image with a width in words": lambda folder: write_images(folder, {"width": "48"}),
    "an image nested too deeply": line('{"path": ' * 100_000),
    "an image nested a little too deeply": line("[" * 40 + "]" * 40),
    "an image in a list": line("[1, 2]"),
    "an image with an endless number": line(json.dumps(IMAGE).replace("48", HUGE)),
    "an image with an endless path": line(json.dumps(IMAGE | {"path": "x" * 200_000})),
    **{
        f"an image with {own}": line(json.dumps(IMAGE | own))
        for own in (
            *({"caption": value} for value in (3, "no place", None, ["{}"])),
            *({"place": value} for value in (-1, "0", True, 0.5)),
            *({"mask": value, "mask_sha256": "0" * 64} for value in ("", "a\0", 3)),
            *({"mask": "m.png", "mask_sha256": value} for value in ("0", None, "x" * 64)),
            {"mask": "m.png"},
        )
    },
    "images that are not UTF-8": lambda folder: (folder / "images.jsonl").write_bytes(b'{"path": "\xff"}\n'),
    "images in a compressed file": lambda folder: (folder / "images.jsonl").write_bytes(os.urandom(2000)),
    "a checkpoint of another step": lambda folder: write_checkpoint(folder, 4, step=torch.tensor(5)),
    "a checkpoint without a step": lambda folder: write_checkpoint(folder, 4, step=torch.ones(3, dtype=torch.int64)),
    "a checkpoint with half a step": lambda folder: write_checkpoint(folder, 4, step=torch.tensor(4.5)),
    "a checkpoint with NaN": lambda folder: write_checkpoint(
        folder, 4, **{"concepts.embeddings": torch.full((2,), NAN)}
    ),
    "a checkpoint whose images are numbers": lambda folder: write_checkpoint(folder, 4, images=torch.ones(3, 32)),
    "a recipe that is too long": lambda folder: os.truncate(folder / "recipe.yaml", 2**26),
    "concepts with an endless header": lambda folder: (folder / "concepts.safetensors").write_bytes(b"\xff" * 64),
    **{
        f"a folder named {name}": replaced(name, os.mkdir)
        for name in ("concepts.safetensors", "weights.safetensors", "images.jsonl")
    },
    **{
        f"{name} that leads to itself": replaced(name, lambda path: path.symlink_to(path.name))
        for name in ("weights.safetensors", "images.jsonl")
    },
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_refused_by_name_with_a_hint(folder, damage):
    DAMAGES[damage](folder)
    with pytest.raises(UcdError) as caught:
        read_everything(folder)
    assert caught.value.exit_code == 2 and str(folder) in caught.value.message and caught.value.hint
    assert len(caught.value.message) < 400 + len(str(folder))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["weights.safetensors", "images.jsonl", "concepts.safetensors", "recipe.yaml"])
def test_a_named_pipe_is_refused_and_not_waited_for(folder, name):
    replaced(name, os.mkfifo)(folder)
    with pytest.raises(UcdError):
        read_everything(folder)
    Run(folder).exists(), Run(folder).is_finished()


def test_a_pipe_in_place_of_a_checkpoint_is_refused(folder):
    write_checkpoint(folder)
    replaced("checkpoints/step-000004/state.safetensors", os.mkfifo)(folder)
    with pytest.raises(UcdError, match="not a regular file"):
        read_everything(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_of_others_is_read_as_float32(folder, dtype):
    write_concepts(folder, torch.arange(8).view(2, 4).to(dtype))
    write_weights(folder, torch.arange(6).view(3, 2).to(dtype))
    _, tokens, embeddings, _, weights, _ = read_everything(folder)
    assert tokens == ("<t1>", "<t2>")
    torch.testing.assert_close(embeddings["text_encoder"], torch.arange(8.0).view(2, 4))
    torch.testing.assert_close(weights, torch.arange(6.0).view(3, 2))


def test_files_behind_symbolic_links_are_read(folder, tmp_path):
    for name in ("concepts.safetensors", "weights.safetensors", "images.jsonl"):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
    assert len(read_everything(folder)[3]) == 3


@pytest.mark.parametrize("name", ["koala", "K-2", "été", "猫", "_x"])
def test_plain_names_in_any_script_are_read(folder, name):
    write_concepts(folder, tokens=["<t1>", f"<{name}>"])
    assert Run(folder).tokens == ("<t1>", f"<{name}>")


FILES = ("concepts.safetensors", "weights.safetensors", "images.jsonl", "recipe.yaml")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return small_run(tmp_path_factory.mktemp("whole") / "run").path


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(FILES), place=st.integers(0, 2**20), value=st.integers(0, 255), cut=st.booleans())
def test_a_run_with_any_byte_changed_is_read_or_refused(whole, name, place, value, cut):
    with tempfile.TemporaryDirectory() as place_for_it:
        folder = Path(shutil.copytree(whole, Path(place_for_it) / "run"))
        content = bytearray((folder / name).read_bytes())
        content[place % len(content)] = value
        (folder / name).write_bytes(content[: place % len(content)] if cut and value < 64 else content)
        try:
            _, tokens, embeddings, images, weights, _ = read_everything(folder)
        except UcdError as error:
            assert error.message
            return
        assert weights.shape == (len(images), len(tokens)) and len(embeddings["text_encoder"]) == len(tokens)
        assert weights.isfinite().all() and embeddings["text_encoder"].isfinite().all()


@pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="needs a torch with 4-bit floats")
def test_numbers_of_less_than_a_byte_are_refused(tmp_path):
    run = small_run(tmp_path / "run")
    header = {
        "embeddings": {"dtype": "F4", "shape": [2, 4], "data_offsets": [0, 4]},
        "__metadata__": {"tokens": json.dumps(TOKENS)},
    }
    text = json.dumps(header).encode()
    (run.path / "concepts.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(UcdError, match="is damaged"):
        _ = run.tokens


def test_absurd_embeddings_are_refused(tmp_path):
    run = small_run(tmp_path / "run")
    write_concepts(run.path, torch.full((2, 4), 3e38))
    with pytest.raises(UcdError, match="its embeddings reach 3e[+]38"):
        _ = run.tokens


@pytest.mark.parametrize(
    ("name", "value"),
    [("optimizer.0.step", torch.tensor(-1.0)), ("optimizer.0.exp_avg", torch.zeros(2, 4, dtype=torch.int32))],
)
def test_an_odd_state_of_the_optimizer_is_refused(tmp_path, name, value):
    run = small_run(tmp_path / "run")
    write_checkpoint(run.path, **{name: value})
    with pytest.raises(UcdError, match=f"is damaged: {name}"):
        run.load_checkpoint()


@pytest.mark.parametrize("name", ["con", "NUL", "com1"])
def test_devices_of_windows_are_no_names(tmp_path, name):
    run = small_run(tmp_path / "run")
    write_concepts(run.path, tokens=["<t1>", f"<{name}>"])
    with pytest.raises(UcdError, match="is not the name of a concept"):
        _ = run.tokens
