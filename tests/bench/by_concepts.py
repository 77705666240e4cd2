"""What an image costs in a training step, by the number of concepts: all of them scored, or four per image
(`train.concepts_per_image`), on the built-in model.
"""

from __future__ import annotations

import argparse

from concepts_cli.core.concepts import concept_tokens
from tests.bench.memory import in_a_process, peak, start_of_peak
from tests.bench.models import bench_model
from tests.bench.timing import interleaved
from tests.bench.training import BATCH, our_training

COUNTS, SCORED, REPEATS = (5, 20, 50), (None, 4), 5


def main() -> None:
    ways = [(count, scored) for count in COUNTS for scored in SCORED]
    model = bench_model("mini", "cpu")
    steps = {way: _steps(model, *way) for way in ways}
    median = interleaved({str(way): lambda way=way: next(steps[way]) for way in ways}, REPEATS)
    print(f"mini, batch {BATCH['mini']}: a step, relative to {COUNTS[0]} concepts all scored")
    for way in ways:
        count, scored = way
        (taken,) = in_a_process("tests.bench.by_concepts", "--peak", str(count), str(scored or 0))
        ratio = median[str(way)] / median[str(ways[0])]
        how = f"{scored} of them per image" if scored else "all"
        print(f"  K = {count:>2}, {how:<22} time {ratio:5.2f}   memory {taken:5.0f} MiB", flush=True)


def _steps(model, count: int, scored: int | None):
    """Steps that begin anew with their own words, since all share the model."""
    training = our_training(model, concept_tokens(count), BATCH["mini"], per_image=scored)
    objective = training.objective
    for step in training.steps():
        yield step
        model.set_concepts(objective.tokens, dict(objective.concepts.embeddings.items()), objective.concepts.where)


def _print_peak(count: int, scored: int | None) -> None:
    steps = our_training(bench_model("mini", "cpu"), concept_tokens(count), BATCH["mini"], per_image=scored).steps()
    before = start_of_peak()
    next(steps)
    print(peak() - before)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--peak", nargs=2, type=int)
    chosen = parser.parse_args()
    if chosen.peak:
        _print_peak(chosen.peak[0], chosen.peak[1] or None)
    else:
        main()
