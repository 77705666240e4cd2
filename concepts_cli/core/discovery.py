"""The training loop: a generator of optimizer steps over frozen scores.

Gradients are averaged over processes here, without a wrapper: they are K x D numbers and a few rows of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from concepts_cli.core.draws import Draws, seeded, step_batches
from concepts_cli.core.latents import Latents
from concepts_cli.core.objective import Batch, Objective
from concepts_cli.core.optimizing import build_optimizer, learning_rates
from concepts_cli.errors import UcdError
from concepts_cli.models.device import to_device
from concepts_cli.recipe import TrainSettings

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what both optimizers keep of each parameter
FEW_IMAGES = 10_000  # up to this many, AdamW updates all weights at every step, as published


@dataclass(frozen=True)
class Step:
    """The result of one optimizer step. `number` counts from 1; `terms` are the parts of the loss if it has several."""

    number: int
    loss: float
    learning_rate: float
    terms: dict[str, float] = field(default_factory=dict)
    stopped: bool = False  # by `stop` on any process, or by patience; no step follows


class Training:
    """A training of K concepts: parameters, optimizer and step count. `steps()` runs it; `state()` is all that a resume
    needs.
    """

    def __init__(
        self,
        objective: Objective,
        latents: Latents,
        settings: TrainSettings,
        *,
        flip_probability: float,
        repeats: int = 1,
        shared_sentence: bool = False,
        sentences: Sequence[range] = (),
        update: str = "auto",
        images_at_once: int | None = None,
        accelerator: Accelerator,
    ):
        """`images_at_once` is how many images a forward pass has at most; what doesn't fit into memory is halved."""
        self.objective, self.concepts = objective, objective.concepts
        self.settings, self.accelerator, processes = settings, accelerator, accelerator.num_processes
        self.draws = Draws(
            latents,
            seed=settings.seed,
            concepts=self.concepts.count,
            sentences=sentences or objective.sentence_count,
            process=objective.model.noise,
            timesteps=settings.timesteps,
            flip_probability=flip_probability,
            repeats=repeats,
            shared_sentence=shared_sentence,
            # Several processes need whole batches to the end of an epoch, as accelerate deals them out.
            epoch_multiple=settings.batch_size * processes if settings.epoch_ends_step and processes > 1 else 1,
        )
        self.total_steps = settings.steps(len(latents))
        self.images_per_step = settings.batch_size * settings.gradient_accumulation * processes
        self.sees_rows = update == "seen" or (update == "auto" and len(self.concepts.raw_weights) > FEW_IMAGES)
        self.step = 0
        self.settled_since = 0  # the last step that changed an image's strongest concept
        self.images_at_once = images_at_once or settings.batch_size
        self._rows_that_fit: int | None = None  # images per forward pass, once it is known how many fit
        self._batches: Callable[[int], list[tuple[Batch, int]]] = lru_cache(maxsize=2)(self._drawn)
        optimizer = build_optimizer(
            settings,
            self.concepts,
            objective.model.typical_vectors(self.concepts.where),
            images_per_step=self.images_per_step,
            sees_rows=self.sees_rows,
        )
        self._rates_at = learning_rates(settings, optimizer, self.total_steps)
        self._optimizer = accelerator.prepare(optimizer)

    def steps(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Step]:
        """Take optimizer steps until `total_steps`, until `stop()` is true on any process, or until patience runs out.

        Raises UcdError (exit status 1) if the loss is not finite, or if not even one image fits into memory.
        """
        while self.step < self.total_steps and not self.has_settled:
            rates = self._rates_at(self.step)
            outcome = self._update(rates)
            self.step += 1
            revived = self._revive()
            wants_stop = outcome.new_full((1,), float(stop()))
            outcome = self.accelerator.reduce(torch.cat([outcome, wants_stop]), "mean")
            if self.step < self.total_steps:
                self._batches(self.step)  # while the device is still at work
            *values, changed, stops = outcome.tolist()  # the step's only wait for the device
            if revived or changed:
                self.settled_since = self.step
            loss = sum(values)
            if not math.isfinite(loss):
                self.step -= 1  # not done: who goes on ends here again, never with a finished run
                raise UcdError(
                    f"the loss is {loss} at step {self.step + 1}",
                    "lower train.learning_rate or use bf16 or float32",
                    exit_code=1,
                )
            named = dict(zip(self._term_names, values, strict=True)) if len(values) > 1 else {}
            yield Step(self.step, loss, rates[0], named, stopped=stops > 0 or self.has_settled)
            if stops:
                return

    def _update(self, rates: Sequence[float]) -> Tensor:
        """Update the parameters, without waiting for the device. Returns the terms of the loss, and then whether an
        image's strongest concept changed, as 0 or 1.
        """
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        terms, rows = self._backward_what_fits()
        before = self.concepts.strongest(rows)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        changed = (before != self.concepts.strongest(rows)).any()
        return torch.cat([terms, changed[None].to(terms)])

    @property
    def has_settled(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.step - self.settled_since >= patience

    def _backward_what_fits(self) -> tuple[Tensor, Tensor]:
        """Compute the gradients of a step, with as many images at once as fit into memory."""
        size = self._rows_that_fit or self.images_at_once
        while size:
            try:
                return self._backward(size)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
            clear_device_cache(garbage_collection=True)  # out of the block above, which keeps the step's tensors
            size //= 2
        hint = "--set train.concept_checkpointing=true, train.gradient_checkpointing=true, or a lower resolution"
        raise UcdError("not even one image fits into memory", hint, exit_code=1)

    def _backward(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Compute the gradients of the step's batches, of all processes, `batch_size` images at a time.

        As in accelerate, a step with fewer batches than `gradient_accumulation` has a smaller gradient. Returns the
        terms of this process's mean loss, and the weight rows of the images seen by any process; all rows if the
        optimizer updates all.
        """
        for parameter in self.concepts.parameters():
            parameter.grad = None
        totals: dict[str, Tensor] = {}
        gradients = []
        drawn = self._batches(self.step)
        batches = sum(len(whole) / meant for whole, meant in drawn)
        for whole, meant in drawn:
            for batch in whole.to(self.accelerator.device).split(batch_size):
                share = len(batch) / meant
                raw = self._raw_weights(batch.rows)
                terms = self.objective(batch, raw)
                self.accelerator.backward(sum(terms.values()) * share / self.settings.gradient_accumulation)
                for name, term in terms.items():
                    totals[name] = totals.get(name, 0) + term.detach() * share / batches
                gradients.append(torch.zeros_like(raw) if raw.grad is None else raw.grad)
        self._rows_that_fit, self._term_names = batch_size, tuple(totals)
        for table in self.concepts.embeddings.values():
            table.grad = self.accelerator.reduce(table.grad, "mean")
        updated_rows = self._accumulate(torch.cat(gradients))
        return torch.stack(list(totals.values())), updated_rows

    def _drawn(self, step: int) -> list[tuple[Batch, int]]:
        """This process's batches of a step, on the CPU, each with how many draws it was meant to have."""
        dealt = self._draws_of(step, self.accelerator.process_index)
        return [(self.draws.batch(draws), meant) for draws, meant in dealt]

    def _draws_of(self, step: int, process: int) -> list[tuple[Sequence[int], int]]:
        """A process's draws in a step, as `Draws.dealt`."""
        settings = self.settings
        batches = step_batches(
            step,
            settings.batch_size,
            settings.gradient_accumulation,
            process=process,
            processes=self.accelerator.num_processes,
            epoch_length=self.draws.epoch_length if settings.epoch_ends_step else None,
        )
        return self.draws.dealt(list(batches))

    def _rows_of_all(self) -> Tensor:
        """The images of every process's draws in this step, process by process, on the CPU: all know them."""
        processes = range(self.accelerator.num_processes)
        batches = (draws for process in processes for draws, _ in self._draws_of(self.step, process))
        return torch.tensor([self.draws.row(draw) for draws in batches for draw in draws])

    def _raw_weights(self, rows: Tensor) -> Tensor:
        """These rows, (B, K), as a separate leaf, so that their gradient has only these rows."""
        raw = self.concepts.raw_weights
        chosen = raw.detach().expand(len(rows), -1) if len(raw) == 1 else raw.detach()[rows]
        return chosen.clone().requires_grad_(raw.requires_grad)

    def _accumulate(self, gradients: Tensor) -> Tensor:
        """Set the weights' gradient from that (B, K) of this process's draws, and return the rows to update."""
        raw = self.concepts.raw_weights
        gradients = self.accelerator.gather(gradients) / self.accelerator.num_processes
        rows = self._rows_of_all()
        if len(raw) == 1:
            rows = torch.zeros_like(rows)
        if raw.requires_grad and self.sees_rows:
            # Merged on the CPU: a GPU would have to be asked how many rows there are.
            rows, where = (to_device(part, raw.device) for part in rows.unique(return_inverse=True))
            summed = gradients.new_zeros(len(rows), gradients.shape[1]).index_add_(0, where, gradients)
            raw.grad = torch.sparse_coo_tensor(rows[None], summed, raw.shape, is_coalesced=True, check_invariants=False)
            return rows
        if raw.requires_grad:
            raw.grad = torch.zeros_like(raw).index_add_(0, to_device(rows, raw.device), gradients)
        return torch.arange(len(raw), device=raw.device)

    def _revive(self) -> bool:
        every = self.settings.revive_every
        due = every and self.step % every == 0 and self.step <= self.total_steps // 2
        return bool(due and self.concepts.revive(seeded(self.settings.seed, "revive", self.step)))

    def state(self) -> dict[str, Tensor]:
        """Everything that determines the next step, as named tensors."""
        tensors = {"step": torch.tensor(self.step), "settled_since": torch.tensor(self.settled_since)}
        tensors |= {f"concepts.{name}": value for name, value in self.concepts.tensors().items()}
        for index, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        if scaler := self.accelerator.scaler:
            tensors |= {f"scaler.{name}": torch.tensor(value) for name, value in scaler.state_dict().items()}
        return {name: value.detach().cpu().clone() for name, value in tensors.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue from `state()`. Raises UcdError if it lacks something, or has other images or other concepts."""
        expected = self._saved_shapes(begun=bool(tensors.get("step", torch.tensor(0)).any()))
        if missing := expected.keys() - tensors.keys():
            raise UcdError(f"the checkpoint lacks {', '.join(sorted(missing)[:3])}", "start over with --force")
        for name, shape in expected.items():
            if tensors[name].shape != shape:
                raise UcdError(
                    f"the checkpoint's {name} is {tuple(tensors[name].shape)}, this run's {tuple(shape)}",
                    "resume with the recipe and images it began with",
                )
        self.concepts.load(_below(tensors, "concepts"))
        moments = {
            index: {key: tensors[f"optimizer.{index}.{key}"].float() for key in MOMENTS}
            for index in range(len(self._parameters))
            if f"optimizer.{index}.step" in expected
        }
        self._optimizer.load_state_dict(
            {"state": moments, "param_groups": self._optimizer.state_dict()["param_groups"]}
        )
        scaler = _below(tensors, "scaler")
        if self.accelerator.scaler and scaler:
            self.accelerator.scaler.load_state_dict({name: value.item() for name, value in scaler.items()})
        self.step, self.settled_since = int(tensors["step"]), int(tensors["settled_since"])

    @property
    def _parameters(self) -> list[Tensor]:
        """What the optimizer updates, in the order of its state."""
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def _saved_shapes(self, begun: bool) -> dict[str, torch.Size]:
        """The shape of everything that a checkpoint has to have, once its training has `begun`."""
        shapes = {f"concepts.{name}": value.shape for name, value in self.concepts.tensors().items()}
        shapes |= {"step": torch.Size(), "settled_since": torch.Size()}
        for index, parameter in enumerate(self._parameters if begun else ()):
            counts = parameter.shape[:1] if self.sees_rows else torch.Size()  # steps: of each row, or of all
            shapes |= {f"optimizer.{index}.{key}": counts if key == "step" else parameter.shape for key in MOMENTS}
        return shapes


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix + "."): value for name, value in tensors.items() if name.startswith(prefix + ".")}
