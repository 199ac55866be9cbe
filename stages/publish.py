"""Copy the suite's tables, figures and record to reports/published/, which git keeps, and bring the pages that follow
from all that is published up to date: docs/reproduction.md, docs/findings.md, docs/papers.md.

    python -m stages.publish                           # what loses nothing
    python -m stages.publish --replace tables/table1   # and this one in any case
    python -m stages.publish --check                   # write nothing, fail where a page is out of date

Not copied, and named: a figure of which less is measured than of the published one, a table that lacks numbers of the
published one, and a record that lacks runs of it.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from stages import cli

if TYPE_CHECKING:
    from pipeline.config import Params


def _pages_alone(parser: ArgumentParser) -> None:
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--pages", action="store_true", help="copy nothing, write the pages from what is published")
    only.add_argument("--check", action="store_true", help="write nothing, fail where a page is out of date")


@cli.command(
    cli.PARAMS,
    cli.option("--replace", nargs="+", default=[], metavar="NAME", help="copy these though something is lost"),
    _pages_alone,
)
def main(given: Namespace) -> None:
    """The command."""
    from pipeline.core.errors import PipelineError
    from pipeline.core.files import write_text
    from pipeline.reporting.publishing import publish

    if not given.check and not given.pages:
        publish(cli.params_of(given), given.replace, print)
    differ = []
    for part in (_beside_records, _pages):  # pages read what lies beside records
        expected = part()
        changed = [path for path, text in expected.items() if not path.exists() or path.read_text() != text]
        differ += changed
        for path in [] if given.check else changed:
            write_text(path, expected[path])
            print(f"wrote {path}")
    if given.check and differ:
        names = ", ".join(map(str, differ))
        raise PipelineError(f"not up to date: {names}; 'python -m stages.publish --pages' writes them")


def _beside_records() -> dict[Path, str]:
    """The files that follow from each published record."""
    from pipeline.reporting import reproduction
    from pipeline.reporting.publishing import PUBLISHED

    records = reproduction.read_records(PUBLISHED)
    findings = {folder: reproduction.find(record) for folder, record in records.items()}
    return {folder / name: text for folder, one in findings.items() for name, text in one.files().items()}


def _pages() -> dict[Path, str]:
    """What follows from all that is published, for those pages that this folder has."""
    from pipeline.reporting import answers, beyond, reproduction
    from pipeline.reporting.publishing import PUBLISHED

    records = reproduction.read_records(PUBLISHED)
    findings = [reproduction.find(record) for record in records.values()]
    steps = reproduction.read_steps()
    filled: dict[Path, Callable[[str], str]] = {
        reproduction.PAGE: lambda page: reproduction.fill_page(page, findings, steps),
        beyond.PAGE: lambda page: beyond.fill_page(page, records.values(), PUBLISHED),
        answers.PAGE: lambda page: answers.fill_page(page, _suites(), PUBLISHED, steps),
    }
    return {path: fill(path.read_text()) for path, fill in filled.items() if path.exists()}


PUBLISHED_WITH = {"digits": ["competitors=all", "ablation=full"]}
"""What `SET` was where the published figures of a suite are not those of its default."""


def _suites() -> dict[str, Params]:
    """Every suite, as `make suite SUITE=name` composes it, with what was published."""
    from pipeline.config.composing import compose_suite

    names = sorted(path.stem for path in Path("conf/suite").glob("*.yaml"))
    return {
        name: compose_suite([f"suite={name}", *PUBLISHED_WITH.get(name, [])], Path("conf")).params for name in names
    }


if __name__ == "__main__":
    raise SystemExit(main())
