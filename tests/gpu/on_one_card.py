"""`ucd` in several processes that share one GPU: over gloo, since nccl refuses two processes on one card."""

from accelerate import PartialState

if __name__ == "__main__":
    PartialState(backend="gloo")
    from concepts_cli.__main__ import main

    main()
