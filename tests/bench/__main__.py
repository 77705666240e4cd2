"""`make bench`: ratios of times and memory within one run, a part a module.

python -m tests.bench [PART] …      all parts, or those that are named
"""

from __future__ import annotations

import argparse
import importlib

PARTS = ("loading", "training", "by_concepts", "many_images", "sampling", "attention", "scoring")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when none is named")
    chosen = parser.parse_args().parts or PARTS
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there is {', '.join(PARTS)}")
    for part in chosen:
        print(f"== {part}", flush=True)
        importlib.import_module(f"tests.bench.{part}").main()


if __name__ == "__main__":
    main()
