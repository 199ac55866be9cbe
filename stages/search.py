"""Search settings of a mixture that no other ones beat, in natural accuracy and worst-case union on held-out images.

Optuna asks for trials, `search` of params.yaml says over what; the ablation grid runs them, on the server of
PREFECT_API_URL or on one of its own that ends with the command. Stopped or killed, the same command continues. It ends
with all trials, and beside those that no other one beats their accuracies on test images.
"""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from stages import cli
from stages.ablation import check_named_server, on_workers, unwound_by_signals
from stages.plan import announce

if TYPE_CHECKING:
    from pipeline.studies.trials import Search


@unwound_by_signals()
@cli.command(
    cli.PARAMS,
    cli.option(
        "--trials",
        type=cli.positive,
        help="in all, earlier calls' among them (default: 'search.trials' of params.yaml)",
    ),
    cli.WORKERS,
    cli.YES,
)
def main(given: Namespace) -> None:
    from pipeline.studies.trials import Search

    search = Search.of(cli.params_of(given))
    trials: int = given.trials or search.settings.trials
    search.check(trials)
    on_workers("the search", given.workers, lambda: _is_left(search, trials, given), lambda: _run(trials, given))


def _is_left(search: Search, trials: int, given: Namespace) -> bool:
    """Say how many trials are left and what they will cost, or what was found where none is left."""
    from pipeline.grid.search import conclude, opened

    with opened(search) as study:
        left = trials - len(study.told())
        if left <= 0:
            conclude(search, study)
            return False
    check_named_server()
    seeds = len(search.settings.seeds)
    print(f"{trials} trials of {seeds} {'experiment' if seeds == 1 else 'experiments'}: {left} are left")
    announce(search.params, search.experiments(search.default) * left, given, "ask for fewer --trials")
    return True


def _run(trials: int, given: Namespace) -> Any:
    from pipeline.flows.search import search

    return search(trials=trials, params=str(given.params), return_state=True)


if __name__ == "__main__":
    raise SystemExit(main())
