"""Runs made of another's concepts: some dropped, several merged, or a mix of them blended into one word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from concepts_cli.errors import UcdError, shown
from concepts_cli.recipe import dump_recipe
from concepts_cli.recipe.loading import plain_name
from concepts_cli.runs.contents import is_token
from concepts_cli.runs.run import Run, bare_name
from concepts_cli.runs.training_folder import make_training_folder


def drop(run: Run, concepts: Sequence[str], *, output: Path | None = None, force: bool = False) -> Run:
    """Make a run without these concepts: `output`, or runs/NAME-without-t2. The run itself stays as it is.

    Raises UcdError for a concept that the run doesn't have, and if none would be left.
    """
    dropped = [run.token(concept) for concept in concepts]
    kept = [k for k, token in enumerate(run.tokens) if token not in dropped]
    if not dropped or not kept:
        raise UcdError(f"{run.path} can't lose {'all' if dropped else 'none'} of its concepts", "name some of them")
    name = f"{run.name}-without-{'-'.join(map(bare_name, dropped))}"
    tokens = [run.tokens[k] for k in kept]
    embeddings = {encoder: table[kept] for encoder, table in run.embeddings.items()}
    return _written(run, name, tokens, embeddings, lambda weights: weights[:, kept], output, force)


def merge(run: Run, concepts: Sequence[str], *, output: Path | None = None, force: bool = False) -> Run:
    """Make a run in which these concepts are one, in the place and by the name of the first: `output`, or
    runs/NAME-merged-t1-t3. The run itself stays as it is.

    The word is the mean of theirs, each as heavy as its weights in all images; its weight in an image is the sum of
    theirs. For words that mean the same, eq. 11 is unchanged. Raises UcdError for a concept that the run doesn't have,
    and for fewer than two.
    """
    tokens = list(dict.fromkeys(run.token(concept) for concept in concepts))
    if len(tokens) < 2:
        raise UcdError("merging takes two concepts or more", f"{run.path} has {', '.join(map(bare_name, run.tokens))}")
    rows = [run.tokens.index(token) for token in tokens]
    gone = rows[1:]
    kept = [k for k in range(len(run.tokens)) if k not in gone]
    heavy = run.weights[:, rows].abs().sum(dim=0) if run.has_images() else torch.ones(len(rows))

    def merged_weights(weights: Tensor) -> Tensor:
        merged = weights.clone()
        merged[:, rows[0]] = weights[:, rows].sum(dim=1)
        return merged[:, kept]

    embeddings = {}
    for encoder, table in run.embeddings.items():
        changed = table.clone()
        changed[rows[0]] = _mean(table[rows], heavy)
        embeddings[encoder] = changed[kept]
    name = f"{run.name}-merged-{'-'.join(map(bare_name, tokens))}"
    return _written(run, name, [run.tokens[k] for k in kept], embeddings, merged_weights, output, force)


def blend(run: Run, weights: Mapping[str, float], *, name: str, output: Path | None = None, force: bool = False) -> Run:
    """Make a run of one word, `name`, near a mix of concepts: `output`, or runs/RUN-NAME.

    The word is the mean of the concepts' words by their weights, so that it loads as one embedding anywhere; a
    composition of the concepts is more exact, because it adds scores. The run has no weights. Raises UcdError for a
    concept that the run doesn't have, for a name that can't be one, and if no weight is above 0: a word can't steer
    away from anything.
    """
    token = f"<{bare_name(name.strip())}>"
    if not is_token(token):
        raise UcdError(f"{shown(name)!r} can't be the name of a concept", "use letters, digits, _ and -")
    found = {run.token(concept): weight for concept, weight in weights.items() if weight > 0}
    if not found:
        raise UcdError("no concept in this mix has a weight above 0", "a word needs one: raise a concept's weight")
    rows = [run.tokens.index(concept) for concept in found]
    shares = torch.tensor(list(found.values()))
    embeddings = {encoder: _mean(table[rows], shares)[None] for encoder, table in run.embeddings.items()}
    return _written(run, f"{run.name}-{bare_name(token)}", [token], embeddings, None, output, force)


def continuing_recipe(run: Run, name: str | None = None) -> str:
    """The YAML of a recipe that trains a run's concepts on, with the settings and the images they were trained with."""
    recipe = run.recipe
    train = replace(recipe.train, start_from=str(run.path.absolute()), start_from_weights=False, push_to_hub=None)
    concepts = replace(recipe.concepts, count=len(run.tokens), start="table", initial=None)
    whole = replace(recipe, name=plain_name(name or f"{run.name}-on"), train=train, concepts=concepts)
    return dump_recipe(whole)


def _mean(words: Tensor, shares: Tensor) -> Tensor:
    """The mean of words (M, …) by their shares (M); equal ones if all are 0."""
    shares = shares.to(words) if shares.sum() else torch.ones(len(words)).to(words)
    return torch.tensordot(shares / shares.sum(), words, dims=1)


def _written(
    run: Run,
    name: str,
    tokens: Sequence[str],
    embeddings: Mapping[str, Tensor],
    weights: Callable[[Tensor], Tensor] | None,
    output: Path | None,
    force: bool,
) -> Run:
    """Write the run of these words. Weights that summed to one do again."""
    changed, records = None, []
    if weights and run.has_images():
        changed, records = weights(run.weights), run.images
        if run.recipe.weights.constraint == "softmax":
            changed = changed / changed.sum(dim=1, keepdim=True).clamp(min=torch.finfo(changed.dtype).tiny)
    names = tuple(map(bare_name, tokens))
    recipe = replace(
        run.recipe,
        name=plain_name(name),
        concepts=replace(run.recipe.concepts, count=len(names), tokens=names, initial=None),
        train=replace(run.recipe.train, start_from=None, start_from_weights=False),
    )
    lock, _ = make_training_folder(recipe, output, resume=False, force=force)
    try:
        made = Run(lock.folder)
        made.clear()
        made.begin(recipe, records)
        made.save_concepts(tokens, embeddings, changed)
    finally:
        lock.release()
    return made
