"""The whole of `params.yaml`, and the experiments that it declares.

Every key is known, typed and checked against the others before anything starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from pipeline.config.data import DataSettings, batch_problems
from pipeline.config.evaluation import EvaluationSettings, OODSettings, SuiteOOD
from pipeline.config.experiment import Experiment
from pipeline.config.figures import AnyFigure, Group
from pipeline.config.methods import MethodSettings, ModelSettings
from pipeline.config.search import SearchSettings
from pipeline.config.studies import AblationSettings
from pipeline.config.tables import TableSettings
from pipeline.config.training import TrainingSettings
from pipeline.core.errors import RequestError, did_you_mean
from pipeline.core.values import (
    AttackBudget,
    Location,
    Name,
    Norm,
    Protocol,
    Seeds,
    StrictModel,
    mapping,
    repeated,
    unless,
)


class Params(StrictModel):
    """The whole of `params.yaml`."""

    suite: Name
    description: str
    protocol: Protocol
    seeds: Seeds
    reports_folder: Annotated[str, Field(pattern=r"^reports/[A-Za-z0-9][A-Za-z0-9_/-]*$")]
    """Where this suite's tables, figures and report are written, below `reports/`."""
    data: DataSettings
    model: ModelSettings
    threat_model: dict[Norm, AttackBudget]
    training: TrainingSettings
    methods: dict[Name, MethodSettings] = Field(min_length=1)
    evaluation: EvaluationSettings
    ood: SuiteOOD = SuiteOOD()
    tables: dict[Name, TableSettings]
    ablation: AblationSettings = AblationSettings()
    search: SearchSettings | None = None
    figures: dict[Name, AnyFigure] = Field(default_factory=dict)

    @field_validator("tables")
    @classmethod
    def _have_files_of_their_own(cls, value: dict[str, TableSettings]) -> dict[str, TableSettings]:
        return unless(repeated([table.file or name for name, table in value.items()]), value)

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Location, str]]:
        """Minibatches that images of one's own are too few for."""
        methods = mapping(given, "methods")
        sections: dict[Location, dict[str, Any]] = {("training",): mapping(given, "training")}
        sections |= {("methods", str(name)): mapping(methods, name) for name in methods}
        for place, section in sections.items():
            for problem in batch_problems(mapping(given, "data"), section.get("batch_size")):
                yield (*place, "batch_size"), problem

    @property
    def reports(self) -> Path:
        """`reports_folder`: tables/, figures/, report.html and what else is told of the suite."""
        return Path(self.reports_folder)

    @property
    def groups(self) -> list[Group]:
        """Methods that tables and figures keep together: those of the first figure that has groups."""
        return next(filter(None, (figure.method_groups for figure in self.figures.values())), [])

    def experiments(self) -> Iterator[Experiment]:
        """Every experiment of the suite: each method with each seed, in the order of the file."""
        for method in self.methods:
            for seed in self.seeds:
                yield self.experiment(method, seed)

    def experiment(self, method: str, seed: int | None) -> Experiment:
        """The experiment of one method and seed; None stands for the only seed.

        Raises:
            RequestError: the file declares no such method or seed, or several seeds where none is given.
        """
        if method not in self.methods:
            raise RequestError(f"unknown method '{method}': {did_you_mean(method, list(self.methods))}")
        if seed is None:
            if len(self.seeds) > 1:
                raise RequestError(
                    f"params.yaml has several seeds, {self.seeds}: say which is meant, --seed {self.seeds[0]}"
                )
            seed = self.seeds[0]
        if seed not in self.seeds:
            raise RequestError(f"seed {seed} is not one of 'seeds' in params.yaml: {self.seeds}")
        return self.resolve(method, self.methods[method], seed)

    def resolve(self, name: str, method: MethodSettings, seed: int) -> Experiment:
        """The experiment of any method, in this file or a variation of one that is, under this file's settings."""
        own = {key: getattr(method, key) for key in ("epochs", "batch_size", "phases")}
        return Experiment(
            suite=self.suite,
            protocol=self.protocol,
            name=name,
            seed=seed,
            data=self.data.judged_on(method.test_crop),
            model=self.model,
            threat_model=self.threat_model,
            training=self.training.model_copy(update={key: value for key, value in own.items() if value is not None}),
            method=method,
            evaluation=self.evaluation,
            ood=OODSettings.model_validate(self.ood.model_dump(exclude={"methods"})),
        )
