"""Train the built-in model from scratch, stage by stage.

    python -m concepts_cli.mini.workshop.pretrain all --out runs/mini
    python -m concepts_cli.mini.workshop.pretrain unet --out runs/mini --minutes 90

Stages: corpus, vae, clip, resnet, unet, decoder, export. Each needs the ones before it, writes a checkpoint into OUT,
continues from it when called again, and logs to OUT/logs/STAGE.jsonl.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from concepts_cli.mini import WEIGHTS
from concepts_cli.mini.workshop import scenes
from concepts_cli.mini.workshop.cores import IdleCores
from concepts_cli.mini.workshop.export import export
from concepts_cli.mini.workshop.train_autoencoder import (
    build_autoencoder,
    standardized,
    train_autoencoder,
    train_decoder,
)
from concepts_cli.mini.workshop.train_clip import build_clip, text_encoder, train_clip
from concepts_cli.mini.workshop.train_reader import train_reader
from concepts_cli.mini.workshop.train_unet import encode_latents, read_autoencoder, train_unet
from concepts_cli.mini.workshop.training import CPU, Budget, Step, averaged
from concepts_cli.processes.signals import termination_interrupts

STAGES = ("corpus", "vae", "clip", "resnet", "unet", "decoder", "export")
MINUTES = {"vae": 20.0, "clip": 4.0, "resnet": 3.0, "unet": 90.0, "decoder": 5.0}
LOG_EVERY = 20  # steps


def follow(steps: Iterator[Step], log: Path, cores: IdleCores | None = None) -> None:
    """Take all `steps`, on idle `cores` only, and write mean losses to `log` and stdout every LOG_EVERY steps."""
    log.parent.mkdir(parents=True, exist_ok=True)
    losses: list[dict[str, Tensor]] = []
    with log.open("a") as file:
        for step in steps:
            losses.append(step.losses)
            if cores:
                cores.adapt()
            if step.number % LOG_EVERY:
                continue
            means = {name: round(float(torch.stack([each[name] for each in losses]).mean()), 5) for name in step.losses}
            losses.clear()
            line = {"step": step.number, "samples": step.samples, "seconds": round(step.seconds, 1), **means}
            file.write(json.dumps(line) + "\n")
            file.flush()
            print(time.strftime("%H:%M:%S"), log.stem, line, flush=True)


@dataclass(frozen=True)
class Machine:
    """What the autoencoder and the denoiser train on; the judges always train on the CPU."""

    device: torch.device = CPU
    batch_size: int | None = None  # pictures per step; None: what suits a CPU

    @property
    def options(self) -> dict[str, Any]:
        return {"device": self.device} | ({"batch_size": self.batch_size} if self.batch_size else {})


def stage_steps(
    stage: str, out: Path, *, seed: int, budget: Budget, weights: Path = WEIGHTS, machine: Machine | None = None
) -> Iterator[Step]:
    """Run one training stage, step by step; closing the iterator saves a checkpoint."""
    corpus = scenes.read_corpus(out / "corpus")
    how: dict[str, Any] = {"seed": seed, "budget": budget}
    machine = machine or Machine()
    if stage == "unet":
        if not (out / "latents.npy").exists():
            encode_latents(corpus, read_autoencoder(out, weights), out / "latents.npy", device=machine.device)
        latents = np.load(out / "latents.npy")
        clip = averaged(build_clip(), out / "clip.pt") if (out / "clip.pt").exists() else build_clip()
        text_tower = text_encoder(clip)
        yield from train_unet(corpus, latents, text_tower, out, weights=weights, **how, **machine.options)
    elif stage == "decoder":
        yield from train_decoder(corpus, read_autoencoder(out, weights), out, **how, **machine.options)
    elif stage == "vae":
        yield from train_autoencoder(corpus, out, weights=weights, **how, **machine.options)
    else:
        train = {"clip": train_clip, "resnet": train_reader}[stage]
        yield from train(corpus, read_autoencoder(out, weights), out, weights=weights, **how)


def run(
    stage: str,
    out: Path,
    *,
    seed: int,
    budget: Budget,
    weights: Path = WEIGHTS,
    machine: Machine | None = None,
    count: int = scenes.COUNT,
    cores: IdleCores | None = None,
) -> None:
    """Run one stage in `out`; `corpus` draws `count` scenes, `export` writes to `weights`."""
    if stage == "corpus":
        if not (out / "corpus" / "captions.json").exists():
            scenes.draw_corpus(out / "corpus", seed=seed, count=count)
    elif stage == "export":
        export(out, weights)
    else:
        steps = stage_steps(stage, out, seed=seed, budget=budget, weights=weights, machine=machine)
        follow(steps, out / "logs" / f"{stage}.jsonl", cores)
        if stage == "vae":
            vae = averaged(build_autoencoder(), out / "vae.pt")
            standardized(vae, scenes.read_corpus(out / "corpus").images[:4096]).save_pretrained(out / "vae")
        elif stage == "decoder":
            averaged(read_autoencoder(out, weights), out / "decoder.pt").save_pretrained(out / "vae")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m concepts_cli.mini.workshop.pretrain", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "stages", nargs="+", choices=[*STAGES, "all"], metavar="STAGE", help=", ".join(STAGES) + " or all"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/mini"), help="folder for corpus, checkpoints and logs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help=f"minutes per stage, over all its runs; default: {MINUTES}")
    parser.add_argument("--steps", type=int, help="steps per stage, instead of minutes")
    parser.add_argument("--scenes", type=int, default=scenes.COUNT, help="in the corpus")
    parser.add_argument("--device", default="cpu", help="cuda trains the autoencoder and the denoiser on a GPU")
    parser.add_argument("--batch-size", type=int, help="pictures per step, there; 1024 suits a GPU")
    parser.add_argument("--idle-cores", action="store_true", help="use only cores that are idle; not bit-reproducible")
    chosen = parser.parse_args(arguments)
    machine = Machine(torch.device(chosen.device), chosen.batch_size)
    if machine.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    with termination_interrupts():  # ends the generators, which save their checkpoints
        for stage in STAGES if "all" in chosen.stages else chosen.stages:
            budget = Budget(steps=chosen.steps, minutes=chosen.minutes or MINUTES.get(stage))
            cores = IdleCores() if chosen.idle_cores else None
            run(
                stage,
                chosen.out,
                seed=chosen.seed,
                budget=budget,
                machine=machine,
                count=chosen.scenes,
                cores=cores,
            )


if __name__ == "__main__":
    main()
