"""AdamW over rows against torch's own AdamW over each row alone."""

from __future__ import annotations

import copy

import torch

from concepts_cli.core.row_adamw import RowAdamW

HOW = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.05}


def sparse(rows: list[int], values: torch.Tensor, count: int) -> torch.Tensor:
    shape = (count, values.shape[1])
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, shape, check_invariants=True).coalesce()


def test_each_row_is_adamw_over_the_steps_that_saw_it():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, generator=generator)
    matrix = torch.nn.Parameter(start.clone())
    optimizer = RowAdamW([matrix], **HOW)
    alone = [torch.nn.Parameter(row.clone()) for row in start]
    optimizers = [torch.optim.AdamW([row], **HOW) for row in alone]
    for rows in ([0, 1], [1], [1, 3], [0, 1], [3, 1]):
        gradients = torch.randn(len(rows), 3, generator=generator)
        matrix.grad = sparse(rows, gradients, 4)
        optimizer.step()
        for row, gradient in zip(rows, gradients, strict=True):
            alone[row].grad = gradient
            optimizers[row].step()
    torch.testing.assert_close(matrix.detach(), torch.stack([row.detach() for row in alone]))
    assert torch.equal(matrix[2], start[2])


def test_a_dense_gradient_moves_all_rows_as_adamw_does():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = RowAdamW([ours], **HOW), torch.optim.AdamW([theirs], **HOW)
    for _ in range(5):
        ours.grad = theirs.grad = torch.randn(4, 3, generator=generator)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_a_closure_computes_the_loss_first():
    matrix = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = RowAdamW([matrix], **HOW)

    def closure() -> float:
        loss = matrix.square().sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 6.0
    assert (matrix < 1).all()


def test_its_state_goes_on_where_it_was():
    matrices = [torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
    first, second = (RowAdamW([matrix], **HOW) for matrix in matrices)
    gradient = sparse([0, 2], torch.tensor([[1.0, 2.0], [3.0, -4.0]]), 3)
    for step in range(4):
        matrices[0].grad = gradient
        first.step()
        if step == 1:
            with torch.no_grad():
                matrices[1].copy_(matrices[0])
            second.load_state_dict(copy.deepcopy(first.state_dict()))
        if step > 1:
            matrices[1].grad = gradient
            second.step()
    assert torch.equal(*matrices)
