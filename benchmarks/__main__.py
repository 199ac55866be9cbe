"""Measure something, and write what was found to benchmarks/results/.

python -m benchmarks step          # as `make bench` does; step --help says what it takes
python -m benchmarks step --quick  # in seconds, to see that it works
"""

from __future__ import annotations

import argparse
from importlib import import_module

MODULES = {
    "steps": ("step", "methods", "savings"),
    "limits": ("mixture", "peak"),
    "profile": ("profile", "compilation"),
    "scaling": ("scaling",),
    "evaluation": ("evaluation", "autoattack"),
    "trainings": ("theory", "equality", "warm_ups"),
    "theorems": ("theorems",),
    "memory": ("memory", "ood_memory"),
    "imagefolder": ("imagefolder",),
    "grid": ("grid",),
}
"""The modules of benchmarks, each a function of its own name."""


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    homes = {name: module for module, names in MODULES.items() for name in names}
    parser.add_argument("name", choices=homes, help="of the benchmark")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of its own")
    given = parser.parse_args(arguments)
    getattr(import_module(f"benchmarks.{homes[given.name]}"), given.name)(given.options)


if __name__ == "__main__":
    main()
