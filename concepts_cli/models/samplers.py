"""diffusers' schedulers as samplers, by short names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # their names are shown in help, which loads no torch
    import torch
    from torch import Tensor

    from concepts_cli.models.noise import DiscreteNoise

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm++karras": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "dpm++sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "kdpm2-a": ("KDPM2AncestralDiscreteScheduler", {}),
}

HELP = f"Sampler. Stable Diffusion has {', '.join(SCHEDULERS)}; dpm++ needs about 20 steps. Default: the recipe's."


def diffusers_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """A new scheduler by its short name, with a model's own noise schedule.

    Latents have no limits to be clipped to, so nothing is clipped unless the model's own scheduler says so.
    """
    import diffusers

    class_name, options = SCHEDULERS[name]
    return getattr(diffusers, class_name).from_config({"clip_sample": False, **config}, **options)


def scheduled_noise(config: Mapping[str, Any], device: torch.device) -> DiscreteNoise:
    """The noise process of a scheduler's configuration."""
    from concepts_cli.models.noise import DiscreteNoise

    scheduler = diffusers_scheduler("ddim", config)
    return DiscreteNoise(
        scheduler.alphas_cumprod.to(device), scheduler.final_alpha_cumprod, config.get("prediction_type", "epsilon")
    )


class DiffusersSampler:
    """A scheduler of diffusers behind the interface's `Sampler`."""

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler
        self.follows_process = bool(scheduler.init_noise_sigma == 1)
        takes = inspect.signature(scheduler.step).parameters
        self._takes_generators, self.takes_eta = "generator" in takes, "eta" in takes

    def times(self, num_steps: int, device: torch.device) -> Tensor:
        self.scheduler.set_timesteps(num_steps, device=device)
        return self.scheduler.timesteps

    def ascent(self, num_steps: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        stride = self.scheduler.config.num_train_timesteps // num_steps
        for time in self.times(num_steps, device).flip(0):
            yield (time - stride).clamp(min=-1), time

    def start(self, noise: Tensor) -> Tensor:
        return noise * self.scheduler.init_noise_sigma

    def model_input(self, latents: Tensor, time: Tensor) -> Tensor:
        return self.scheduler.scale_model_input(latents, time)

    def step(
        self,
        prediction: Tensor,
        time: Tensor,
        latents: Tensor,
        *,
        generators: Sequence[torch.Generator] | None = None,
        eta: float = 0,
    ) -> Tensor:
        options: dict[str, Any] = {"eta": eta} if eta else {}
        if generators is not None and self._takes_generators:
            options["generator"] = generators
        return self.scheduler.step(prediction, time, latents, return_dict=False, **options)[0]
