"""What a training step and a picture cost on a model of full size, with random weights and no download.

    python -m tests.bench.real_size sd21 --device cuda --dtype bf16 fp32 --minutes 2

- `bare`: the UNet calls of a step that no implementation can leave out, stacked forward and backward;
- `ours`: a step of `ucd train`, with its texts, weights and optimizer;
- `published`: a step as the published trainer takes it, written out in tests/bench/published.py;
- seconds per picture to sample, compose and encode, and to draw heat maps.

Each figure is printed as soon as it is measured; what the minutes don't suffice for is left out, and said. On the meta
device nothing runs: it counts weights, and the UNet's arithmetic in a step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from concepts_cli.core.concepts import concept_tokens
from concepts_cli.core.discovery import Training
from concepts_cli.models.device import DTYPES, chosen_device
from tests.bench.full_size import ARCHITECTURES, full_size, full_size_pipeline, on_paper
from tests.bench.memory import peak, start_of_peak
from tests.bench.published import published_step
from tests.bench.real_size_pictures import picture_work
from tests.bench.training import IMAGES, bare_unet, our_training

STEPS = ("ours", "bare", "published")  # in this order: the bare calls are as large as ours
PICTURES = ("sample", "compose", "visualize", "encode")
PEAKS = ("bare GiB", "ours GiB", "published GiB")


@dataclass(frozen=True)
class Row:
    """One figure: median seconds of a step or a picture, and the most memory in use meanwhile.

    On a CPU, ratios are of `cpu_seconds`, the processor's time: other work may run beside it.
    """

    model: str
    device: str
    dtype: str
    what: str
    seconds: float
    cpu_seconds: float
    peak_gib: float
    repeats: int

    @property
    def cost(self) -> float:
        return self.cpu_seconds if self.device.startswith("CPU") else self.seconds


class Measurer:
    """Measures work until the minutes are over."""

    def __init__(self, options: argparse.Namespace, device: torch.device):
        self.options, self.device = options, device
        self.deadline = time.monotonic() + 60 * options.minutes
        self.rows: list[Row] = []

    def measure(self, dtype: str, what: str, work: Callable[[], object], *, each: int = 1) -> None:
        """Time `work`, which makes `each` steps or pictures, after a run to warm up; print the figure and keep it."""
        seconds: list[float] = []
        of_cpu: list[float] = []
        self._start_of_peak()
        for _ in range(self.options.warmup + self.options.repeats):
            if seconds and time.monotonic() + max(seconds) > self.deadline:
                break
            start = time.process_time()
            seconds.append(self._timed(work))
            of_cpu.append(time.process_time() - start)
        kept = slice(self.options.warmup if len(seconds) > self.options.warmup else 0, None)
        row = Row(
            model=self.options.model,
            device=self._device_name(),
            dtype=dtype,
            what=what,
            seconds=statistics.median(seconds[kept]) / each,
            cpu_seconds=statistics.median(of_cpu[kept]) / each,
            peak_gib=self._peak(),
            repeats=len(seconds[kept]),
        )
        self.rows.append(row)
        print(f"{row.dtype:5} {row.what:16} {row.seconds:9.3f} s {row.peak_gib:7.2f} GiB", flush=True)

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.deadline

    def _timed(self, work: Callable[[], object]) -> float:
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _start_of_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        else:
            start_of_peak()

    def _peak(self) -> float:
        """GiB: on a GPU of tensors, on a CPU of the whole process."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else peak() / 1024

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name()
        return f"CPU, {torch.get_num_threads()} threads"


def measure_all(options: argparse.Namespace, measurer: Measurer) -> None:
    for dtype in options.dtype:
        if measurer.is_over:
            print(f"{dtype:5} left out: no minutes left", flush=True)
            continue
        model = full_size(options.model, device=measurer.device, dtype=DTYPES[dtype])
        if options.gradient_checkpointing:
            model.checkpoint_gradients()
        if options.compile:
            model.compile()
        # The first that meets a shape has the libraries' first choice of algorithms to wait for; it is warmed up.
        for what, work, each in _work(options, model, dtype):
            if measurer.is_over:
                print(f"{dtype:5} {what:16} left out: no minutes left", flush=True)
            else:
                measurer.measure(dtype, what, work(), each=each)
        del model


def _work(options: argparse.Namespace, model, dtype: str) -> Iterator[tuple[str, Callable, int]]:
    """What to measure: its name, what prepares it, and how many steps or pictures it makes."""
    tokens, batch = concept_tokens(options.concepts), options.batch_size
    shape = {"accumulation": options.accumulation, "side": options.side}
    checkpointed = options.concept_checkpointing

    trainings: list[Training] = []

    def ours() -> Callable[[], object]:
        AcceleratorState._reset_state(reset_partial_state=True)
        precision = {"fp32": "no"}.get(dtype, dtype)
        accelerator = Accelerator(mixed_precision=precision, cpu=model.device.type == "cpu")
        training = our_training(model, tokens, batch, checkpointed=checkpointed, accelerator=accelerator, **shape)
        trainings.append(training)
        return training.steps().__next__

    def bare() -> Callable[[], object]:
        at_once = (trainings[-1]._rows_that_fit if trainings else None) or batch
        calls = batch * options.accumulation // at_once
        return bare_unet(model, len(tokens), at_once, accumulation=calls, side=options.side, checkpointed=checkpointed)

    steps = {
        "ours": ours,
        "bare": bare,
        "published": lambda: published_step(model, tokens, images=IMAGES, batch=batch, **shape),
    }
    for what in STEPS:
        if what in options.parts:
            yield what, steps[what], 1
    for what in PICTURES:
        if what in options.parts:
            yield (
                what,
                partial(
                    picture_work,
                    what,
                    model,
                    tokens,
                    count=options.pictures,
                    steps=options.sample_steps,
                    side=options.side,
                ),
                options.pictures,
            )


def print_table(rows: list[Row], options: argparse.Namespace) -> None:
    """Markdown tables: one line per precision, of the steps and of the pictures."""
    by = {(row.dtype, row.what): row for row in rows}
    dtypes = list(dict.fromkeys(row.dtype for row in rows))
    images = f"{options.batch_size} x {options.accumulation} images"
    device = rows[0].device if rows else "nothing measured"
    print(
        f"\n{device}; {options.model}, {options.side} px, K = {options.concepts}, {images}, torch {torch.__version__}\n"
    )
    _print_head("precision", "bare UNet s", "ours s", "published s", "ours / bare", "published / ours", *PEAKS)
    for dtype in dtypes:
        ours, bare, published = (by.get((dtype, what)) for what in STEPS)
        cells = [_number(row and row.seconds) for row in (bare, ours, published)]
        cells += [_ratio(ours, bare), _ratio(published, ours)]
        cells += [_number(row and row.peak_gib) for row in (bare, ours, published)]
        print(f"| {dtype} | {' | '.join(cells)} |")
    if any(row.what in PICTURES for row in rows):
        print(f"\nSeconds per picture, {options.sample_steps} steps, {options.pictures} at a time\n")
        _print_head("precision", *PICTURES)
        for dtype in dtypes:
            found = [by.get((dtype, what)) for what in PICTURES]
            print(f"| {dtype} | {' | '.join(_number(row and row.seconds) for row in found)} |")


def _print_head(*columns: str) -> None:
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _ratio(above: Row | None, below: Row | None) -> str:
    return f"{above.cost / below.cost:.2f}" if above and below else ""


def options_of(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.real_size", description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="sd21", choices=ARCHITECTURES)
    parser.add_argument("--device", help="default: the fastest there is; meta only counts")
    parser.add_argument("--dtype", nargs="+", choices=("fp32", "fp16", "bf16"), help="default: fp32, on a GPU all")
    parser.add_argument("--parts", nargs="+", default=STEPS + PICTURES, choices=STEPS + PICTURES)
    parser.add_argument("--minutes", type=float, default=60, help="begin nothing new after them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--concepts", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=8)
    parser.add_argument("--side", type=int, default=512, help="of the pictures, in pixels")
    parser.add_argument("--sample-steps", type=int, default=50)
    parser.add_argument("--pictures", type=int, default=4, help="made at a time")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--concept-checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--tf32", action="store_true", help="also for fp32's matrix products")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="only save the model there, for `ucd train`")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = options_of(arguments)
    if options.device == "meta":
        counted = on_paper(
            options.model,
            side=options.side,
            count=options.concepts,
            batch=options.batch_size,
            batches=options.accumulation,
        )
        for name, value in counted.items():
            print(f"{name:32} {value:10.2f}")
        if options.json:
            options.json.write_text(json.dumps(counted, indent=1))
        return
    device = chosen_device(options.device)
    options.dtype = options.dtype or (["bf16", "fp16", "fp32"] if device.type == "cuda" else ["fp32"])
    if options.write:
        full_size_pipeline(options.model, device=device, dtype=DTYPES[options.dtype[0]]).save_pretrained(options.write)
        return
    if options.tf32:
        torch.set_float32_matmul_precision("high")
    measurer = Measurer(options, device)
    try:
        measure_all(options, measurer)
    finally:
        print_table(measurer.rows, options)
        if options.json:
            how = {key: value for key, value in vars(options).items() if not isinstance(value, Path)}
            options.json.write_text(
                json.dumps({"options": how, "rows": [asdict(row) for row in measurer.rows]}, indent=1)
            )


if __name__ == "__main__":
    main(sys.argv[1:])
