"""Publish a finished run on the Hugging Face Hub."""

from __future__ import annotations

from concepts_cli.errors import UcdError, first_line
from concepts_cli.runs.run import Run


def check_hub(repository: str) -> None:
    """Raise UcdError, before any long work, if the user is not logged in to the Hub."""
    from huggingface_hub import get_token

    if not get_token():
        raise UcdError(
            f"train.push_to_hub: not logged in, can't publish {repository}", "run `hf auth login`, or set $HF_TOKEN"
        )


def push_to_hub(run: Run) -> str:
    """Publish a finished run without its checkpoints; return its address. Raises UcdError (1); the run is kept."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api, repository = HfApi(), run.recipe.train.push_to_hub
    try:
        created = api.create_repo(repository, exist_ok=True)
        api.upload_folder(
            repo_id=created.repo_id,
            folder_path=run.path,
            commit_message=f"{run.name}: {len(run.tokens)} concepts",
            ignore_patterns=["checkpoints/*", "logs/*", ".*"],
        )
        card = _card(run).encode()
        api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=created.repo_id)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UcdError(
            f"could not publish to {repository}: {first_line(error)}",
            f"the run is complete in {run.path}; try: hf upload {repository} {run.path}",
            exit_code=1,
        ) from error
    return str(created)


def _card(run: Run) -> str:
    """The page that the Hub shows: how to load the concepts."""
    base = f"base_model: {run.recipe.model}\n" if "/" in run.recipe.model and run.recipe.model[0] not in "/.~" else ""
    return (
        f"---\n{base}library_name: diffusers\ntags: [textual_inversion, concept-discovery]\n---\n\n# {run.name}\n\n"
        f"{len(run.tokens)} visual concepts, discovered in {len(run.images)} unlabelled images with `ucd`.\n\n"
        f"```python\npipeline.load_textual_inversion('{run.recipe.train.push_to_hub}', "
        "weight_name='embeddings/t1.safetensors')\n```\n"
    )
