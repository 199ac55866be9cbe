"""Write tables that print several suites side by side, as the papers print two networks, from one MLflow store.

    python -m stages.printed                    all of conf/printed.yaml that have a number
    python -m stages.printed table1 table4      these, whether or not they have one
    python -m stages.printed table1 --set seeds=[1,2,3] protocol=reference_code

Forms are those of 'make tables'; a part without runs is dashes with a footnote that says which command fills them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stages import cli

if TYPE_CHECKING:
    from pipeline.config import Params, PrintedTables

CONF = Path("conf")


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=cli.EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a key of 'tables' in the file (default: all)")
    parser.add_argument("--file", type=Path, default=CONF / "printed.yaml", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("reports/printed"), help="default: %(default)s")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="OVERRIDE", help="of Hydra, for every suite: seeds=[1,2,3]"
    )
    given = parser.parse_args(arguments)

    def stage() -> None:
        from pipeline.config import load_printed
        from pipeline.core.files import remove_half_written
        from pipeline.reporting.printed import fill_printed, write_printed
        from pipeline.reporting.tables import remove_leftovers, write_pictures
        from pipeline.tracking import finished_runs

        printed = load_printed(given.file, given.set)
        names = _known(given.names, printed)
        suites = _compose(names, printed)
        cli.deliver_what_waits()
        runs = finished_runs(experiment for params in suites.values() for experiment in params.experiments())
        tables = [fill_printed(name, printed, suites, runs) for name in names]
        remove_half_written(given.output)
        written: list[Path] = []
        for table in tables:
            if not table.is_measured and not given.names:
                print(f"{table.name}: nothing is measured yet; 'python -m stages.printed {table.name}' writes it empty")
                continue
            paths = write_printed(table, given.output)
            written += paths
            for path in paths:
                print(f"wrote {path}")
        fragments = [path for path in written if path.suffix == ".tex"]
        for line in write_pictures(fragments, given.output) if fragments else ():
            print(line)
        if not given.names:
            for path in remove_leftovers(given.output, written):
                print(f"removed {path}, of a table that is not written any more")

    return cli.run(stage)


def _known(names: list[str], printed: PrintedTables) -> list[str]:
    """The tables that are asked for, each once."""
    from pipeline.core.errors import RequestError, did_you_mean

    for name in names:
        if name not in printed.tables:
            raise RequestError(f"unknown table '{name}': {did_you_mean(name, list(printed.tables))}")
    return list(dict.fromkeys(names or printed.tables))


def _compose(names: list[str], printed: PrintedTables) -> dict[str, Params]:
    """The suites of tables, by their names in the file."""
    import yaml

    from pipeline.config import parse_params
    from pipeline.config.composing import compose

    wanted = dict.fromkeys(suite for name in names for suite in printed.tables[name].suites)
    return {
        suite: parse_params(yaml.safe_load(compose(printed.suites[suite].compose, CONF)), f"suite '{suite}'")
        for suite in wanted
    }


if __name__ == "__main__":
    sys.exit(main())
