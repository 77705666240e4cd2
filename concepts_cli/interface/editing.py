"""A run's concepts, given other names and put to other uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from concepts_cli.commands import derive
from concepts_cli.commands.export import export
from concepts_cli.commands.rename import rename
from concepts_cli.interface.loaded_run import LoadedRun
from concepts_cli.interface.opened_run import OpenedRun
from concepts_cli.interface.options import AnyPath, several
from concepts_cli.interface.silence import CallerOutput
from concepts_cli.runs.run import Run as RunFolder


class EditableRun(OpenedRun):
    """A run whose concepts can be renamed in place, and dropped, merged and blended in runs of their own."""

    def export(
        self,
        tool: str,
        *,
        concepts: str | Sequence[str] = (),
        output: AnyPath | None = None,
        force: bool = False,
    ) -> list[Path]:
        """Write the concepts as files that another tool loads, and return their paths: `ucd export`.

        `tool` is diffusers, a1111, comfyui, kohya or onetrainer. Raises UcdError for a tool that doesn't load this
        model's words.

            run.export("comfyui", concepts="t1")
        """
        folder = None if output is None else Path(output)
        return export(self._folder, tool=tool, concepts=several(concepts), output=folder, force=force)

    def rename(self, concept: str, name: str) -> None:
        """Give a concept a name of your own, everywhere in the run folder: `ucd rename`.

        Raises UcdError for a concept the run doesn't have, and for a name that is taken or can't be one.

            run.rename("t3", "dog")
        """
        self._folder = LoadedRun(rename(self._folder, concept, name, out=CallerOutput()).path, self._folder.models)

    def drop(self, concepts: str | Sequence[str], *, output: AnyPath | None = None, force: bool = False) -> Self:
        """A new run without these concepts, in `output`, or runs/NAME-without-t2. This one stays as it is.

        Raises UcdError for a concept the run doesn't have, if none would be left, and for an `output` that holds
        something, unless `force`.

            fewer = run.drop("t2")
        """
        return self._derived(derive.drop(self._folder, several(concepts), output=_path(output), force=force))

    def merge(self, concepts: Sequence[str], *, output: AnyPath | None = None, force: bool = False) -> Self:
        """A new run in which these concepts are one, by the name of the first. This one stays as it is.

        Its word is the mean of theirs by their weights, and its weight in an image the sum of theirs. Raises what
        `drop` raises, and UcdError for fewer than two concepts.

            merged = run.merge(["t1", "t4"])
        """
        return self._derived(derive.merge(self._folder, several(concepts), output=_path(output), force=force))

    def blend(
        self, weights: Mapping[str, float], name: str, *, output: AnyPath | None = None, force: bool = False
    ) -> Self:
        """A new run of one word near a mix of concepts, the mean of theirs by weight: a mix as an embedding.

        A composition of the concepts is more exact. Raises what `drop` raises, and UcdError if no weight is above 0.

            run.blend({"t1": 5, "t3": 2}, "hybrid").export("comfyui")
        """
        folder = _path(output)
        return self._derived(derive.blend(self._folder, weights, name=name, output=folder, force=force))

    def continuing_recipe(self) -> str:
        """The YAML of a recipe that trains these concepts on, with the settings they were trained with."""
        return derive.continuing_recipe(self._folder)

    def _derived(self, folder: RunFolder) -> Self:
        return type(self)(folder.path, beside=self)


def _path(output: AnyPath | None) -> Path | None:
    return None if output is None else Path(output)
