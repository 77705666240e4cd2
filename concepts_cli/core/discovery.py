"""The loop that discovers: a generator of steps over frozen scores.

Every draw of step s (images, mirrors, noise, timesteps, sentences) is a function of the seed and s alone, made for
the whole batch of all processes and then cut. So a resumed run needs no state of any random generator, and two
processes see what one with twice the batch would.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from concepts_cli.core.concepts import Concepts
from concepts_cli.core.scores import compose, stacked_scores
from concepts_cli.data.latents import Latents
from concepts_cli.errors import UcdError
from concepts_cli.models.stable_diffusion import StableDiffusion
from concepts_cli.recipe import TrainSettings


@dataclass(frozen=True)
class Step:
    """What one optimizer step did. `number` counts from 1."""

    number: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class Batch:
    """B images to be explained: their rows of the weights, clean latents, noise, timesteps, a sentence each."""

    rows: Tensor
    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    sentences: Tensor


class ComposedLoss(nn.Module):
    """Eq. 10: mean squared distance of the target and the composition (eq. 11) of the concepts' scores.

    Holds the trained parameters; the frozen model stays outside of its state. `sentences` are the templates that the
    concepts' words are put into.
    """

    def __init__(
        self,
        model: StableDiffusion,
        concepts: Concepts,
        tokens: tuple[str, ...],
        sentences: tuple[str, ...],
        *,
        checkpointed: bool = False,
    ):
        super().__init__()
        self.concepts = concepts.to(model.device)
        self.checkpointed = checkpointed
        self._frozen = (model,)  # in a tuple, so that it is no submodule
        self._noise_schedule = model.scheduler("ddpm")
        model.set_concepts(tokens, self.concepts.embeddings)
        self._prompt_ids = torch.stack([model.tokenize([s.format(t) for t in tokens]) for s in sentences])  # (S, K, T)
        with torch.no_grad():
            self._hidden_uncond = model.encode_prompts([""])  # (1, T, D)

    def forward(self, batch: Batch) -> Tensor:  # -> ()
        (model,) = self._frozen
        noisy = self._noise_schedule.add_noise(batch.latents, batch.noise, batch.timesteps)
        ids = self._prompt_ids[batch.sentences]  # (B, K, T)
        hidden = model.text_encoder(ids.flatten(0, 1))[0].unflatten(0, ids.shape[:2])  # (B, K, T, D)
        with torch.no_grad():
            uncond = model.predict(noisy, batch.timesteps, self._hidden_uncond.expand(len(noisy), -1, -1))
        conditional = stacked_scores(model, noisy, batch.timesteps, hidden, checkpointed=self.checkpointed)
        return F.mse_loss(compose(uncond, conditional, self.concepts.weights(batch.rows)), self._target(batch))

    def _target(self, batch: Batch) -> Tensor:
        if self._frozen[0].prediction_type == "v_prediction":
            return self._noise_schedule.get_velocity(batch.latents, batch.noise, batch.timesteps)
        return batch.noise


class Training:
    """K concepts in the making: parameters, optimizer and step count; `steps()` runs it, `state()` is all that a
    resume needs.
    """

    def __init__(
        self,
        loss: ComposedLoss,
        latents: Latents,
        settings: TrainSettings,
        *,
        flip_probability: float,
        accelerator: Accelerator,
    ):
        self.settings, self.latents, self.flip_probability = settings, latents, flip_probability
        self.accelerator = accelerator
        self.concepts = loss.concepts
        self.sentence_count = len(loss._prompt_ids)
        self.timestep_count = loss._noise_schedule.config.num_train_timesteps
        self.micro_batch = settings.batch_size * accelerator.num_processes
        self.total_steps = settings.max_steps or len(latents) * settings.iterations_per_image
        self.step = 0

        scale = self.micro_batch * settings.gradient_accumulation if settings.scale_learning_rate else 1
        rates = [settings.learning_rate, settings.weights_learning_rate or settings.learning_rate]
        parameters = [self.concepts.embeddings, self.concepts.raw_weights]
        groups = [
            {"params": [parameter], "lr": rate * scale}
            for parameter, rate in zip(parameters, rates, strict=True)
            if parameter.requires_grad
        ]
        optimizer = torch.optim.AdamW(
            groups, betas=tuple(settings.adam_betas), eps=settings.adam_epsilon, weight_decay=settings.weight_decay
        )
        self._rate_at = _schedule(settings, optimizer, self.total_steps)
        self._loss, self._optimizer = accelerator.prepare(loss, optimizer)

    def steps(self) -> Iterator[Step]:
        """Optimizer steps until `total_steps`. Raises UcdError (exit status 1) when the loss is no longer finite."""
        accumulation = self.settings.gradient_accumulation
        while self.step < self.total_steps:
            rates = self._rate_at(self.step)
            for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            total = 0.0
            for micro in range(accumulation):
                last = micro == accumulation - 1
                with nullcontext() if last else self.accelerator.no_sync(self._loss):
                    loss = self._loss(self.draw(self.step * accumulation + micro)) / accumulation
                    self.accelerator.backward(loss)
                total = total + loss.detach()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self._revive()
            value = self.accelerator.reduce(total, "mean").item()
            if not math.isfinite(value):
                raise UcdError(
                    f"the loss is {value} at step {self.step}",
                    "lower train.learning_rate or use bf16 or float32",
                    exit_code=1,
                )
            yield Step(self.step, value, rates[0])

    def _revive(self) -> None:
        every = self.settings.revive_every
        if every and self.step % every == 0 and self.step <= self.total_steps // 2:
            self.concepts.revive(seeded(self.settings.seed, "revive", self.step))

    def draw(self, index: int) -> Batch:
        """Micro-batch number `index` of this process."""
        generator = seeded(self.settings.seed, "batch", index)
        rows = self._rows(index)
        latents = self.latents.draw(rows, self.flip_probability, generator)
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = self._timesteps(torch.rand(rows.shape, generator=generator))
        sentences = torch.randint(self.sentence_count, rows.shape, generator=generator)
        mine = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        parts = (rows, latents, noise, timesteps, sentences)
        return Batch(*(part[mine].to(self.accelerator.device) for part in parts))

    def _timesteps(self, uniform: Tensor) -> Tensor:
        """Uniform draws from [0, 1) as timesteps: all alike, or with a density that grows linearly to one end."""
        share = {"uniform": uniform, "high-noise": uniform.sqrt(), "low-noise": 1 - (1 - uniform).sqrt()}
        return (share[self.settings.timesteps] * self.timestep_count).long().clamp(max=self.timestep_count - 1)

    def _rows(self, index: int) -> Tensor:
        """The images of a micro-batch: every epoch a new order, batches run on from one into the next."""
        count = len(self.latents)
        first = index * self.micro_batch
        rows = []
        for epoch in range(first // count, (first + self.micro_batch - 1) // count + 1):
            order = torch.randperm(count, generator=seeded(self.settings.seed, "epoch", epoch))
            start = epoch * count
            rows.append(order[max(first - start, 0) : first + self.micro_batch - start])
        return torch.cat(rows)

    def state(self) -> dict[str, Tensor]:
        """Everything that decides the next step, as named tensors."""
        tensors = {"step": torch.tensor(self.step)}
        tensors |= {f"concepts.{name}": value for name, value in self.concepts.state_dict().items()}
        for index, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        if scaler := self.accelerator.scaler:
            tensors |= {f"scaler.{name}": torch.tensor(value) for name, value in scaler.state_dict().items()}
        return {name: value.detach().cpu().clone() for name, value in tensors.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from `state()`. Raises UcdError when it belongs to other images or another number of concepts."""
        if missing := {name for name in self.state() if not name.startswith(("optimizer.", "scaler."))} - set(tensors):
            raise UcdError(f"the checkpoint lacks {', '.join(sorted(missing))}", "start over with --force")
        parts = {name: _below(tensors, name) for name in ("concepts", "optimizer", "scaler")}
        for name, value in self.concepts.state_dict().items():
            if parts["concepts"][name].shape != value.shape:
                was, now = tuple(parts["concepts"][name].shape), tuple(value.shape)
                raise UcdError(
                    f"the checkpoint's {name} is {was}, this run's {now}",
                    "resume with the recipe and images it began with",
                )
        self.concepts.load_state_dict(parts["concepts"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            index, key = name.split(".", 1)
            moments.setdefault(int(index), {})[key] = value
        self._optimizer.load_state_dict(
            {"state": moments, "param_groups": self._optimizer.state_dict()["param_groups"]}
        )
        if self.accelerator.scaler and parts["scaler"]:
            self.accelerator.scaler.load_state_dict({name: value.item() for name, value in parts["scaler"].items()})
        self.step = int(tensors["step"])


def seeded(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator for one purpose: the same for the same three, unrelated otherwise."""
    digest = hashlib.sha256(f"{seed} {purpose} {index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix + "."): value for name, value in tensors.items() if name.startswith(prefix + ".")}


def _schedule(settings: TrainSettings, optimizer: torch.optim.Optimizer, total_steps: int):
    """step -> the learning rate of every parameter group, by diffusers' schedules."""
    from diffusers.optimization import get_scheduler

    scheduler = get_scheduler(
        settings.schedule, optimizer, num_warmup_steps=settings.warmup_steps, num_training_steps=total_steps
    )
    return lambda step: [
        base * factor(step) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
