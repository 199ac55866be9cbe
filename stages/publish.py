"""Copy the suite's tables, figures and record to reports/published/, which git keeps, and bring the pages that follow
from all that is published up to date: docs/reproduction.md, docs/findings.md, docs/papers.md; and docs/api.md, which
follows from docstrings.

    python -m stages.publish                           # what loses nothing
    python -m stages.publish --replace tables/table1   # and this one in any case
    python -m stages.publish --check                   # write nothing, fail where a page is out of date

Not copied, and named: a figure of which less is measured than of the published one, a table that lacks numbers of the
published one, and a record that lacks runs of it.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
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
    from pipeline.core.errors import PipelineError
    from pipeline.core.files import write_text
    from pipeline.reporting.publishing import publish

    if not given.check and not given.pages:
        publish(cli.params_of(given), given.replace, print)
    differ = []
    for path, text in _expected():
        if path.exists() and path.read_text() == text:
            continue
        differ.append(path)
        if not given.check:
            write_text(path, text)
            print(f"wrote {path}")
    if given.check and differ:
        names = ", ".join(map(str, differ))
        raise PipelineError(f"not up to date: {names}; 'python -m stages.publish --pages' writes them")


def _expected() -> Iterator[tuple[Path, str]]:
    """What follows from all that is published: the files beside each record, then the pages, which read those files."""
    from pipeline import api
    from pipeline.reporting import answers, api_page, beyond, reproduction
    from pipeline.reporting.publishing import PUBLISHED

    findings = {folder: reproduction.find(one) for folder, one in reproduction.read_records(PUBLISHED).items()}
    for folder, one in findings.items():
        yield from ((folder / name, text) for name, text in one.files().items())
    steps, records = reproduction.read_steps(), [one.record for one in findings.values()]
    if (page := reproduction.PAGE).exists():
        yield page, reproduction.fill_page(page.read_text(), findings.values(), steps)
    if (page := beyond.PAGE).exists():
        yield page, beyond.fill_page(page.read_text(), records, PUBLISHED)
    if (page := api_page.PAGE).exists():
        yield page, api_page.write_page(api)
    if (page := answers.PAGE).exists():
        yield page, answers.fill_page(page.read_text(), _suites(), PUBLISHED, steps)


PUBLISHED_WITH = {"digits": ["competitors=all", "ablation=full"]}
"""The value of `SET` for suites whose published figures come from other settings than the default."""


def _suites() -> dict[str, Params]:
    """Every suite, as `make suite SUITE=name` composes it, with what was published."""
    from pipeline.config.composing import compose_suite

    names = sorted(path.stem for path in Path("conf/suite").glob("*.yaml"))
    return {
        name: compose_suite([f"suite={name}", *PUBLISHED_WITH.get(name, [])], Path("conf")).params for name in names
    }


if __name__ == "__main__":
    raise SystemExit(main())
