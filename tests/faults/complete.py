"""What a worker of the grid does with one experiment, as a command: prepare its data, train, evaluate."""

from __future__ import annotations

from pathlib import Path

from stages import cli


def main(arguments: list[str]) -> int:
    """Bring the experiment in this folder to its end."""

    def stage() -> None:
        from pipeline.config import load_params
        from pipeline.core.signals import stop_on_signal
        from pipeline.experiments.complete import complete_experiment

        (experiment,) = load_params(Path("params.yaml")).experiments()
        with stop_on_signal(second_at_once=False) as should_stop:
            complete_experiment(experiment, should_stop)

    return cli.run(stage)
