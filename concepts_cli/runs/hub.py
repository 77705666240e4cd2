"""Publish a finished run on the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import replace

from concepts_cli.data.images import ImageRecord
from concepts_cli.errors import UcdError, first_line
from concepts_cli.paths import public_settings
from concepts_cli.recipe import dump_recipe
from concepts_cli.runs.run import EVALUATION, IMAGES, RECIPE, Run, image_line


def check_hub(repository: str) -> None:
    """Raise UcdError, before any long work, if the user is not logged in to the Hub."""
    from huggingface_hub import get_token

    if not get_token():
        raise UcdError(
            f"train.push_to_hub: not logged in, can't publish {repository}", "run `hf auth login`, or set $HF_TOKEN"
        )


def push_to_hub(run: Run) -> str:
    """Publish a finished run; return its address. Raises UcdError (1); the run is kept.

    Checkpoints and logs stay here, and so do a page and scores of an earlier training. What is published names no
    folder of this machine.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api, repository = HfApi(), run.recipe.train.push_to_hub
    public = {
        "README.md": _card(run),
        RECIPE: dump_recipe(public_settings(run.recipe)),
        IMAGES: "".join(image_line(public_settings(_alone(record))) for record in run.images),
    }
    try:
        created = api.create_repo(repository, exist_ok=True)
        api.upload_folder(
            repo_id=created.repo_id,
            folder_path=run.path,
            commit_message=f"{run.name}: {len(run.tokens)} concepts",
            ignore_patterns=[
                "checkpoints/*",
                "logs/*",
                ".*",
                "*/.*",
                EVALUATION,
                "report.html",
                "report-with-*.html",
                *public,
            ],
        )
        for name, text in public.items():
            api.upload_file(path_or_fileobj=text.encode(), path_in_repo=name, repo_id=created.repo_id)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UcdError(
            f"could not publish to {repository}: {first_line(error)}",
            f"the run is complete; to try again: {run.resume_command}",
            exit_code=1,
        ) from error
    return str(created)


def _card(run: Run) -> str:
    """The page that the Hub shows: how to load the concepts."""
    base = f"base_model: {run.recipe.model}\n" if "/" in run.recipe.model and run.recipe.model[0] not in "/.~" else ""
    card = (
        f"---\n{base}library_name: diffusers\ntags: [textual_inversion, concept-discovery]\n---\n\n# {run.name}\n\n"
        f"{len(run.tokens)} visual concepts, discovered in {len(run.images)} unlabelled images with `ucd`.\n"
    )
    if run.recipe.concepts.where == "output":  # diffusers loads no such words
        return card
    return card + (
        f"\n```python\npipeline.load_textual_inversion('{run.recipe.train.push_to_hub}', "
        "weight_name='embeddings/t1.safetensors')\n```\n"
    )


def _alone(record: ImageRecord) -> ImageRecord:
    """An image without its caption and its mask, which are not needed to use the run."""
    return replace(record, caption=None, mask=None, mask_sha256=None)
