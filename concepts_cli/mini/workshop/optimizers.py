"""Muon for weight matrices and AdamW for the rest: fewer steps to the same loss than AdamW alone."""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

# Newton-Schulz coefficients of Jordan et al., https://kellerjordan.github.io/posts/muon/: fast rather than exact.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, with singular values of about 1: (B, M, N) -> (B, M, N)."""
    a, b, c = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalized steps, in float32; a convolution counts as an (out, in * h * w) matrix.

    The step's root mean square is 0.2 of the learning rate, like AdamW's, so that both take the same rate
    (Liu et al., https://arxiv.org/abs/2502.16982).
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ):
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; a `closure` recomputes the loss first, as in torch's own optimizers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault((len(parameter), parameter[0].numel()), []).append((parameter, parameter.grad))
            for shape, pairs in by_shape.items():
                self._step_alike(shape, pairs, group)
        return loss

    def _step_alike(
        self, shape: tuple[int, int], pairs: list[tuple[nn.Parameter, Tensor]], group: dict[str, Any]
    ) -> None:
        """Take one step for all matrices of one shape, stacked: small products are slow one by one."""
        parameters, gradients = ([pair[i] for pair in pairs] for i in (0, 1))
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, buffers, group["momentum"])  # Nesterov's look
        updates = orthogonalized(torch.stack([each.reshape(shape) for each in ahead]))
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        steps = [update.reshape(parameter.shape) for update, parameter in zip(updates, parameters, strict=True)]
        torch._foreach_add_(parameters, steps, alpha=-0.2 * max(shape) ** 0.5 * group["lr"])


def muon_and_adamw(
    module: nn.Module,
    lr: float,
    *,
    muon: bool = True,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.95),
) -> list[torch.optim.Optimizer]:
    """Optimizers for all of `module`: embeddings, biases, norms and convolutions of pixels or latents go to AdamW."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        hidden = (
            parameter.ndim >= 2 and min(len(parameter), parameter[0].numel()) >= 48 and "embedding.weight" not in name
        )
        (matrices if hidden and muon else others).append(parameter)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=lr, betas=betas, weight_decay=weight_decay)]
    return optimizers + ([Muon(matrices, lr, weight_decay=weight_decay)] if matrices else [])
