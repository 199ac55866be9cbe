"""Write tables that print several suites side by side, as the papers print two networks, from one MLflow store.

    python -m stages.printed                    all of conf/printed.yaml that have a number
    python -m stages.printed table1 table4      these, whether or not they have one
    python -m stages.printed table1 --set seeds=[1,2,3] protocol=reference_code

Forms are those of 'make tables'; a part without runs is dashes with a footnote that says which command fills them.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from stages import cli

CONF = Path("conf")


@cli.command(
    cli.option("names", nargs="*", metavar="NAME", help="a key of 'tables' in the file (default: all)"),
    cli.option("--file", type=Path, default=CONF / "printed.yaml", help="default: %(default)s"),
    cli.option("--output", type=Path, default=Path("reports/printed"), help="default: %(default)s"),
    cli.option("--set", nargs="+", default=[], metavar="OVERRIDE", help="of Hydra, for every suite: seeds=[1,2,3]"),
)
def main(given: Namespace) -> None:
    from pipeline.config import load_printed
    from pipeline.config.composing import compose_suite
    from pipeline.core.files import remove_half_written
    from pipeline.reporting.printed import fill_printed
    from pipeline.reporting.results import read_verdicts
    from pipeline.reporting.tables import remove_leftovers, write_pictures, write_table
    from pipeline.tracking import finished_runs

    printed = load_printed(given.file, given.set)
    cli.check_known("table", given.names, printed.tables)
    names = list(dict.fromkeys(given.names or printed.tables))
    wanted = dict.fromkeys(suite for name in names for suite in printed.tables[name].suites)
    suites = {suite: compose_suite(printed.suites[suite].compose, CONF).params for suite in wanted}
    cli.deliver_what_waits()
    runs = finished_runs(experiment for params in suites.values() for experiment in params.experiments())
    verdicts = read_verdicts(runs)
    tables = [fill_printed(name, printed, suites, runs, verdicts) for name in names]
    remove_half_written(given.output)
    written: list[Path] = []
    for table in tables:
        if not table.is_measured and not given.names:
            print(f"{table.name}: nothing is measured yet; 'python -m stages.printed {table.name}' writes it empty")
            continue
        written += cli.tell_written(write_table(table, given.output))
    fragments = [path for path in written if path.suffix == ".tex"]
    for line in write_pictures(fragments, given.output) if fragments else ():
        print(line)
    if not given.names:
        for path in remove_leftovers(given.output, written):
            print(f"removed {path}, of a table that is not written any more")


if __name__ == "__main__":
    raise SystemExit(main())
