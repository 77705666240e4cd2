"""What is each concept? Its nearest words, and whether it is dead, or the same as another.

Shapes: K concepts, N images, V words of the vocabulary, W words of a list, D and E features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from concepts_cli.metrics.figures import Table
from concepts_cli.metrics.inputs import MetricInputs
from concepts_cli.metrics.metric import Metric
from concepts_cli.metrics.words import without_fragments

ALIKE = 0.1  # silhouette of two concepts' samples, below which they can't be told apart
MIXED = 0.6  # share of a concept's samples that its most common word should have


@dataclass(frozen=True)
class Word:
    """A word and its cosine similarity; for samples, also the share of them that it fits best."""

    word: str
    similarity: float
    share: float | None = None


def nearest_words(embeddings: np.ndarray, table: np.ndarray, words: Sequence[str], count: int = 5) -> list[list[Word]]:
    """The words whose embeddings are nearest to each concept's, by cosine: (K, D), (V, D) -> K lists."""
    similarities = _unit(embeddings) @ _unit(table).T
    return [[Word(words[v], float(row[v])) for v in (-row).argsort(kind="stable")[:count]] for row in similarities]


def seen_words(similarities: np.ndarray, owners: np.ndarray, words: Sequence[str], count: int = 3) -> list[list[Word]]:
    """What a concept's samples look like: similarities (N, W) of samples, owners (N,) concepts -> K lists.

    Sorted by the share of its samples that a word fits best, then by mean similarity.
    """
    ranked = []
    for k in range(int(owners.max()) + 1):
        own = similarities[owners == k]
        shares = np.bincount(own.argmax(axis=1), minlength=len(words)) / len(own)
        means = own.mean(axis=0)
        best = np.lexsort((-means, -shares))[:count]
        ranked.append([Word(words[w], float(means[w]), float(shares[w])) for w in best])
    return ranked


def dead_concepts(weights: np.ndarray) -> list[int]:
    """Concepts that are strongest in no training image and have less than half of an equal share of the weight.

    Weights (N, K) count by absolute value.
    """
    sizes = np.abs(weights)
    count = weights.shape[1]
    shares = (sizes / sizes.sum(axis=1, keepdims=True).clip(min=1e-12)).mean(axis=0)
    strongest = np.bincount(weights.argmax(axis=1), minlength=count)
    return [k for k in range(count) if count > 1 and strongest[k] == 0 and shares[k] < 0.5 / count]


def duplicate_concepts(features: np.ndarray, owners: np.ndarray) -> list[tuple[int, int, float]]:
    """Pairs of concepts whose samples can't be told apart, with their silhouette: features (N, E), owners (N,).

    The silhouette (Rousseeuw, 1987) of the two groups uses the cosine distance: 1 is far apart, 0 the same.
    """
    from sklearn.metrics import silhouette_score

    duplicates = []
    for first, second in combinations(range(int(owners.max()) + 1), 2):
        pair = np.isin(owners, (first, second))
        if min((owners == first).sum(), (owners == second).sum()) < 2:
            continue
        apart = float(silhouette_score(features[pair], owners[pair], metric="cosine"))
        if apart < ALIKE:
            duplicates.append((first, second, apart))
    return duplicates


def advice(
    names: Sequence[str], dead: Sequence[int], duplicates: Sequence[tuple[int, int, float]], mixed: Sequence[int]
) -> str:
    """Advice on the number of concepts, in one sentence."""
    alike = _groups([(first, second) for first, second, _ in duplicates])
    spare = set(dead).union(*(sorted(group)[1:] for group in alike))
    problems = []
    if dead:
        problems.append(f"{_list(names[k] for k in dead)} explain{'s' * (len(dead) == 1)} no training image")
    problems += [f"{_list(names[k] for k in sorted(group))} look the same" for group in alike]
    if spare:
        return f"{'; '.join(problems)}: try --set concepts.count={len(names) - len(spare)}"
    if mixed:
        several = f"{_list(names[k] for k in mixed)} show{'s' * (len(mixed) == 1)} more than one thing"
        return f"{several}: try --set concepts.count={len(names) + len(mixed)}"
    return f"every concept is in use and no two look the same: concepts.count={len(names)} fits"


def _groups(pairs: Iterable[tuple[int, int]]) -> list[set[int]]:
    """The groups that the pairs connect."""
    groups: list[set[int]] = []
    for pair in pairs:
        touching = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if group not in touching] + [set(pair).union(*touching)]
    return groups


def _list(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)


class NamingMetric(Metric):
    """Words for each concept, by its embedding and by its samples; and which concepts are dead or duplicates."""

    name = "naming"

    def check(self, inputs: MetricInputs) -> None:
        inputs.clip.check(inputs.words)
        inputs.check_samples(self.name)

    def compute(self, inputs: MetricInputs) -> dict[str, Any]:
        samples, features = inputs.samples, inputs.features("clip")
        # A folder of samples is sorted by name, t10 before t2.
        owners = np.array([inputs.concepts.index(samples.concepts[k]) for k in samples.owners])
        vocabulary = without_fragments(inputs.model.whole_words(), built_in=inputs.is_built_in)
        encoder, table = next(iter(inputs.model.tables.items()))
        known = table.float().cpu().numpy()[list(vocabulary.values())]
        learned = inputs.run.embeddings[encoder].numpy()
        learned = learned.reshape(len(learned), -1, known.shape[1]).mean(axis=1)  # of several vectors, their mean
        neighbours: list[list[Word]] = [[] for _ in learned]
        if inputs.run.recipe.concepts.where == "input":  # the others are not in the space of the table
            neighbours = nearest_words(learned, known, list(vocabulary))
        seen = seen_words(inputs.clip.score(features, inputs.words), owners, inputs.words)
        weights = inputs.run.weights.float().numpy()
        dead, duplicates = dead_concepts(weights), duplicate_concepts(features, owners)
        mixed = [k for k, words in enumerate(seen) if (share := words[0].share) is not None and share < MIXED]
        sizes = np.bincount(weights.argmax(axis=1), minlength=len(inputs.concepts))
        return {
            "scorer": inputs.clip.name,
            "words": len(inputs.words),
            "concepts": {
                name: {
                    "name": seen[k][0].word,
                    "seen": seen[k],
                    "neighbours": neighbours[k],
                    "training_images": sizes[k],
                    "dead": k in dead,
                    "mixed": k in mixed,
                    "same_as": [inputs.concepts[a + b - k] for a, b, _ in duplicates if k in (a, b)],
                }
                for k, name in enumerate(inputs.concepts)
            },
            "duplicates": [
                {"concepts": [inputs.concepts[a], inputs.concepts[b]], "silhouette": apart}
                for a, b, apart in duplicates
            ],
            "advice": advice(inputs.concepts, dead, duplicates, mixed),
        }

    def tables(self, result: dict[str, Any]) -> list[Table]:
        rows = []
        for name, concept in result["concepts"].items():
            seen = ", ".join(f"{word['word']} {word['similarity']:.2f}" for word in concept["seen"])
            near = ", ".join(f"{word['word']} {word['similarity']:.2f}" for word in concept["neighbours"][:3])
            problems = ["dead"] * concept["dead"] + ["mixed"] * concept["mixed"]
            problems += [f"same as {other}" for other in concept["same_as"]]
            rows.append([name, seen, near, ", ".join(problems) or "in use"])
        return [
            ("Names", ["concept", "samples look like", "word's neighbours", "state"], rows),
            ("", ["advice"], [[result["advice"]]]),
        ]
