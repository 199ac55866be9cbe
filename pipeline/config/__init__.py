"""The schema of `params.yaml`, and how it is read."""

from pipeline.config.mixture import (
    GradientProjectionSettings,
    MixtureSettings,
    ModeConnectivitySettings,
    MovingAverageSettings,
)
from pipeline.config.reading import load_params, parse_params
from pipeline.config.schema import (
    AdamSettings,
    AttackBudget,
    AugmentationSettings,
    AutoAttackSettings,
    DatasetName,
    DataSettings,
    EvaluationSettings,
    Experiment,
    LearnerSettings,
    Normalization,
    Params,
    PGDAttackSettings,
    SelectionSettings,
    SGDSettings,
    TableSettings,
)
from pipeline.config.values import Budget, Closed, Norm, interpolate, parse_fraction

__all__ = [
    "AdamSettings",
    "AttackBudget",
    "AugmentationSettings",
    "AutoAttackSettings",
    "Budget",
    "Closed",
    "DataSettings",
    "DatasetName",
    "EvaluationSettings",
    "Experiment",
    "GradientProjectionSettings",
    "LearnerSettings",
    "MixtureSettings",
    "ModeConnectivitySettings",
    "MovingAverageSettings",
    "Norm",
    "Normalization",
    "PGDAttackSettings",
    "Params",
    "SGDSettings",
    "SelectionSettings",
    "TableSettings",
    "interpolate",
    "load_params",
    "parse_fraction",
    "parse_params",
]
