"""`ucd` in several processes that share one GPU: over gloo, since nccl refuses two processes on one card."""

import torch
from accelerate import PartialState

if __name__ == "__main__":
    PartialState(backend="gloo")
    barrier = torch.distributed.barrier
    torch.distributed.barrier = lambda *_, **__: barrier()  # accelerate names a card per process
    from concepts_cli.__main__ import main

    main()
