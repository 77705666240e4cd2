"""AdamW for a matrix of which each step sees a few rows: the others are neither updated nor read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class RowAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, ICLR 2019) with a separate step count per row.

    With a gradient that is sparse in the first dimension, rows without a gradient keep their values and moments. For
    rows with a gradient at every step, and for dense gradients, it is torch.optim.AdamW. A step costs only the rows
    that it touches; the state is two more matrices, and one count per row.
    """

    def __init__(self, params: ParamsT, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

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
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(len(parameter), device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        rows: Tensor | slice = slice(None)
        values = gradient  # (R, K)
        if gradient.is_sparse:
            rows, values = gradient.coalesce().indices()[0], gradient.coalesce().values()
        (beta1, beta2), rate = group["betas"], group["lr"]
        steps = state["step"][rows] + 1
        mean = state["exp_avg"][rows].lerp(values, 1 - beta1)
        square = state["exp_avg_sq"][rows].lerp(values.square(), 1 - beta2)
        state["step"][rows], state["exp_avg"][rows], state["exp_avg_sq"][rows] = steps, mean, square
        unbiased_mean = mean / (1 - beta1**steps)[:, None]
        unbiased_square = square / (1 - beta2**steps)[:, None]
        decayed = parameter[rows] * (1 - rate * group["weight_decay"])
        parameter[rows] = decayed - rate * unbiased_mean / (unbiased_square.sqrt() + group["eps"])
