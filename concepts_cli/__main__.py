"""`python -m concepts_cli`, and `accelerate launch -m concepts_cli`: the same as `ucd`."""

from concepts_cli.cli import main

if __name__ == "__main__":
    main()
