"""Say what the suite's runs tell of the papers, from MLflow alone: their numbers, their claims, the authors' switches.

Writes reports/<suite>/, small enough to be committed: tables, verdicts of every image (Parquet), curves by epoch (CSV),
resolved experiments (YAML), and what follows from them (rows.csv, settings.csv, claims.csv); then docs/reproduction.md,
docs/findings.md and docs/papers.md from all that reports/ has of any suite.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stages import cli

if TYPE_CHECKING:
    from pipeline.config import Params

REPORTS = Path("reports")


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--no-runs", action="store_true", help="leave MLflow alone, write what follows from reports/ as it is"
    )
    parser.add_argument(
        "--check", action="store_true", help="the same, but write nothing and fail where something is out of date"
    )
    given = parser.parse_args(arguments)

    def stage() -> None:
        from pipeline.config import load_params
        from pipeline.errors import PipelineError
        from pipeline.files import write_text

        if not given.check and not given.no_runs:
            cli.deliver_what_waits()
            for path in _write_evidence(load_params(given.params)):
                print(f"wrote {path}")
        expected = _expected()
        differ = [path for path, content in expected.items() if not path.exists() or path.read_text() != content]
        if given.check and differ:
            names = ", ".join(map(str, differ))
            raise PipelineError(f"not up to date: {names}; 'python -m stages.reproduction --no-runs' writes them")
        for path in differ:
            write_text(path, expected[path])
            print(f"wrote {path}")

    return cli.run(stage)


def _write_evidence(params: Params) -> Iterator[Path]:
    """The suite's own files and tables."""
    from pipeline.reporting.reproduction import folder_of, gather, write_record
    from pipeline.reporting.results import awaits_corrupted_images, collect
    from pipeline.reporting.tables import write_table

    folder = folder_of(params)
    yield from write_record(gather(params), folder)
    for name, results in collect(params).items():
        if not awaits_corrupted_images(results):
            yield from write_table(name, params, results, folder / "tables")


def _expected() -> dict[Path, str]:
    """What follows from all evidence: the files beside it, and the page where this folder has one."""
    from pipeline.reporting import answers, beyond, reproduction

    findings = {folder: reproduction.find(record) for folder, record in reproduction.read_records(REPORTS).items()}
    expected = {folder / name: text for folder, one in findings.items() for name, text in one.files().items()}
    steps = reproduction.read_steps()
    if reproduction.PAGE.exists():
        expected[reproduction.PAGE] = reproduction.fill_page(reproduction.PAGE.read_text(), findings.values(), steps)
    if beyond.PAGE.exists():
        records = [one.record for one in findings.values()]
        expected[beyond.PAGE] = beyond.fill_page(beyond.PAGE.read_text(), records, REPORTS)
    if answers.PAGE.exists():
        expected[answers.PAGE] = answers.fill_page(answers.PAGE.read_text(), _suites(), REPORTS, steps)
    return expected


def _suites() -> dict[str, Params]:
    """Every suite, as `make suite SUITE=name` composes it."""
    import yaml

    from pipeline.config import parse_params
    from stages.compose import compose

    names = sorted(path.stem for path in Path("conf/suite").glob("*.yaml"))
    return {name: parse_params(yaml.safe_load(compose([f"suite={name}"], Path("conf")))) for name in names}


if __name__ == "__main__":
    sys.exit(main())
