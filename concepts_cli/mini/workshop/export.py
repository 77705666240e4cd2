"""Stage `export`: the averaged weights of every stage, as other people's loaders read them, in float16.

weights/            StableDiffusionPipeline.from_pretrained(weights, torch_dtype=torch.float32)
weights/clip/       open_clip.create_model_and_transforms(f"local-dir:{weights}/clip"), and get_tokenizer likewise
weights/resnet/     timm.create_model(config["architecture"], **config["model_args"]), then model.safetensors

Each of the two judges keeps in its config the `threshold` that something in 95% of unseen scenes reaches.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import nn

from concepts_cli.mini.captions import VOCABULARY
from concepts_cli.mini.corpus import SIZE
from concepts_cli.mini.tokenizer import build_tokenizer, save_tokenizer
from concepts_cli.mini.workshop.measure import held_out_scenes, objects_in, stacked, threshold
from concepts_cli.mini.workshop.schedule import build_scheduler
from concepts_cli.mini.workshop.train_clip import NORMALIZATION, build_clip, model_config, text_encoder, zero_shot
from concepts_cli.mini.workshop.train_reader import ARCHITECTURE, SHAPE, build_reader, read
from concepts_cli.mini.workshop.train_unet import build_unet, read_autoencoder
from concepts_cli.mini.workshop.training import averaged


def averaged_unet(folder: Path) -> nn.ModuleDict:
    """The denoiser and its text encoder after `folder/unet.pt`."""
    module = nn.ModuleDict({"unet": build_unet(), "text_encoder": text_encoder(build_clip())})
    return averaged(module, folder / "unet.pt")


def build_pipeline(folder: Path, weights: Path) -> StableDiffusionPipeline:
    """The pipeline of the checkpoints in `folder`, in float32; with the autoencoder of `weights` if it has none."""
    module = averaged_unet(folder)
    pipeline = StableDiffusionPipeline(
        vae=read_autoencoder(folder, weights),
        text_encoder=module["text_encoder"],
        tokenizer=build_tokenizer(),
        unet=module["unet"],
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _forget_origin(path: Path) -> None:
    """Take out of a config where on this machine its model was loaded from."""
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2) + "\n")


def export(folder: Path, weights: Path) -> None:
    """Write what has been trained in `folder` to `weights`, and the logs to `logs` beside it.

    Files are moved into their places when complete.
    """
    scenes = held_out_scenes(2000)
    images, there = stacked(scenes), objects_in(scenes)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        fresh = Path(temporary)
        if (folder / "unet.pt").exists():
            build_pipeline(folder, weights).to(torch.float16).save_pretrained(fresh)
            _forget_origin(fresh / "vae" / "config.json")
            save_tokenizer(fresh / "tokenizer")
            state = torch.load(folder / "unet.pt", weights_only=True)
            progress = {"steps": state["step"], "samples": state["samples"]}  # where training goes on
            (fresh / "training.json").write_text(json.dumps(progress) + "\n")
        if (folder / "clip.pt").exists():
            clip = averaged(build_clip(), folder / "clip.pt")
            limit = threshold(zero_shot(clip, images), there)
            config = {"model_cfg": model_config(), "preprocess_cfg": NORMALIZATION, "threshold": limit}
            _save(clip, fresh / "clip" / "open_clip_model.safetensors")
            (fresh / "clip" / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
            save_tokenizer(fresh / "clip")
        if (folder / "resnet.pt").exists():
            reader = averaged(build_reader(), folder / "resnet.pt")
            limit = threshold(read(reader, images), there)
            config = {
                "architecture": ARCHITECTURE,
                "model_args": SHAPE,
                "label_names": VOCABULARY,
                "input_size": [3, SIZE, SIZE],
                "mean": NORMALIZATION["mean"],
                "std": NORMALIZATION["std"],
                "threshold": limit,
            }
            _save(reader, fresh / "resnet" / "model.safetensors")
            (fresh / "resnet" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        _move(fresh, weights)
    for log in (folder / "logs").glob("*.jsonl"):
        _continue_log(log, weights.parent / "logs" / log.name)


def _save(module: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in module.half().state_dict().items()}, path)


def _move(fresh: Path, weights: Path) -> None:
    """Replace the files in `weights` by those in `fresh`, each at once: a reader finds the old one or the new."""
    for source in sorted(path for path in fresh.rglob("*") if path.is_file()):
        target = weights / source.relative_to(fresh)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")  # on the same file system as the target
        shutil.copyfile(source, part)
        os.replace(part, target)


def _continue_log(log: Path, shipped: Path) -> None:
    """Put `log` in the place of `shipped`, after those of its lines that come before: earlier trainings' steps."""
    lines = log.read_text().splitlines()
    if shipped.exists() and lines:
        first = json.loads(lines[0])["step"]
        lines = [line for line in shipped.read_text().splitlines() if json.loads(line)["step"] < first] + lines
    shipped.parent.mkdir(parents=True, exist_ok=True)
    shipped.write_text("".join(line + "\n" for line in lines))
