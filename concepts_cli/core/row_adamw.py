"""AdamW for a matrix of which every step sees a few rows: the others are neither moved nor read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class RowAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, ICLR 2019) in which each row keeps a step count of its own.

    Where a gradient is a sparse tensor over the first dimension, a row without one stays as it is, its moments too. For
    rows that have a gradient at every step, and for dense gradients, it is torch.optim.AdamW. A step costs the rows
    that it touches; the state is two more matrices and a count a row.
    """

    def __init__(self, params: ParamsT, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step; a `closure` computes the loss anew before it, as in every optimizer of torch's."""
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
