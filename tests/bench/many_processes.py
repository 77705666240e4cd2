"""As many processes as asked for on this machine, which train as one: the same result, the same bytes per step.

    python -m tests.bench.many_processes --processes 1 4 16 64

A tiny random model over gloo; a step has the same images however many processes share them. Bytes are those that a
process hands to collective operations, and what it gets back, counted where torch.distributed is called.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from concepts_cli.core.concepts import Concepts, concept_tokens, initial_embeddings
from concepts_cli.core.discovery import Training
from concepts_cli.core.draws import seeded
from concepts_cli.core.objective import ComposedLoss
from concepts_cli.models import load_model
from concepts_cli.output import silence_libraries
from concepts_cli.recipe import TrainSettings
from tests.bench.tables import print_table
from tests.conftest import build_pipeline
from tests.held_latents import HeldLatents

IMAGES, CONCEPTS, PER_STEP, STEPS = 1_000, 5, 64, 3
COLLECTIVES = ("all_reduce", "all_gather", "all_gather_into_tensor")


def count_bytes() -> dict[str, int]:
    """Counts what every collective operation of this process sends and receives from now on."""
    counted = {"sent": 0, "received": 0}

    def counting(name: str):
        operation = getattr(torch.distributed, name)

        def call(*tensors, **options):
            outputs = tensors[0] if isinstance(tensors[0], list) else [tensors[0]]
            counted["sent"] += (
                tensors[-1].nbytes if len(tensors) > 1 and hasattr(tensors[-1], "nbytes") else outputs[0].nbytes
            )
            counted["received"] += sum(tensor.nbytes for tensor in outputs)
            return operation(*tensors, **options)

        return call

    for name in COLLECTIVES:
        setattr(torch.distributed, name, counting(name))
    return counted


def train(rank: int, world: int, port: int, folder: Path) -> None:
    """One of `world` processes; the first saves what they learned and what it cost."""
    torch.set_num_threads(1)
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    if world > 1:
        os.environ |= {name: str(value) for name, value in where.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    accelerator = Accelerator(cpu=True)
    model = load_model(str(folder / "model"), device="cpu")
    start = initial_embeddings(model, CONCEPTS, words=None, spread=1.0, generator=seeded(0, "bench"))
    concepts = Concepts(start, torch.ones(IMAGES, CONCEPTS))
    latents = torch.randn(1, IMAGES, *model.latent_shape(), generator=seeded(0, "latents"))
    settings = TrainSettings(
        max_steps=STEPS + 1, batch_size=PER_STEP // world, gradient_accumulation=1, learning_rate=1e-4
    )
    training = Training(
        ComposedLoss(model, concepts, concept_tokens(CONCEPTS), ("a photo of a {}",)),
        HeldLatents(latents, torch.ones_like(latents)),
        settings,
        flip_probability=0,
        update="seen",
        accelerator=accelerator,
    )
    steps = training.steps()
    next(steps)  # finds out what fits into memory
    counted, begun = count_bytes(), time.perf_counter()
    losses = [step.loss for step in steps]
    seconds = (time.perf_counter() - begun) / STEPS
    accelerator.wait_for_everyone()
    if rank == 0:
        found = {"sent": counted["sent"] // STEPS, "received": counted["received"] // STEPS, "seconds": seconds}
        found["width"] = sum(table.shape[1] for table in start.values())
        found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        learned = {name: tensor.detach() for name, tensor in concepts.tensors().items()}
        torch.save({"found": found, "losses": losses, "learned": learned}, folder / f"{world}.pt")
    accelerator.end_training()


def together(world: int, folder: Path) -> dict:
    """What `world` processes learn together. They are forked, so that the libraries are in memory once."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=train, args=(rank, world, port, folder)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"of {world} processes, some failed: {[process.exitcode for process in processes]}")
    return torch.load(folder / f"{world}.pt", weights_only=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.many_processes", description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 4, 16, 64])
    counts = parser.parse_args(arguments).processes
    silence_libraries()
    rows, first = [], None
    with tempfile.TemporaryDirectory() as place:
        build_pipeline(Path(place) / "model")
        for world in counts:
            result = together(world, Path(place))
            first, found = first or result, result["found"]
            apart = max(
                float((tensor - first["learned"][name]).abs().max()) for name, tensor in result["learned"].items()
            )
            cells = (f"{found['sent']:,}", f"{found['received']:,}", f"{apart:.1e}", f"{found['seconds']:.2f}")
            rows.append((str(world), str(PER_STEP // world), *cells))
            print(rows[-1], flush=True)
    width = found["width"]
    title = (
        f"{PER_STEP} images a step, K = {CONCEPTS}, D = {width}: K x D x 4 = {4 * CONCEPTS * width:,} bytes of words, "
        f"{PER_STEP} x K x 4 = {4 * PER_STEP * CONCEPTS:,} of weights"
    )
    head = (
        "processes",
        "images each",
        "bytes sent by each",
        "received",
        "largest difference to the first",
        "s per step",
    )
    print_table(title, head, rows)


if __name__ == "__main__":
    main()
