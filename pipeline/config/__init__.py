"""The schema of `params.yaml`, and how it is read."""

from pipeline.config.data import STREAMED, AugmentationSettings, DatasetName, DataSettings
from pipeline.config.evaluation import (
    DERIVED_METRICS,
    OOD_METRICS,
    TRAINING_SECONDS,
    EnsembleAttack,
    EvaluationAttack,
    EvaluationSettings,
    OODSettings,
    Passes,
    SingleAttack,
)
from pipeline.config.experiment import Experiment
from pipeline.config.figures import (
    AblationFigure,
    Axis,
    ClassWiseFigure,
    FigureSettings,
    FrameworkFigure,
    GradCAMFigure,
    ParetoFigure,
    ProtocolsFigure,
    StabilityFigure,
    TheoryFigure,
    TradeOffFigure,
    TrainingCurvesFigure,
)
from pipeline.config.methods import LearnerSettings
from pipeline.config.mixture import (
    GradientProjectionSettings,
    MixtureSettings,
    ModeConnectivitySettings,
    MovingAverageSettings,
)
from pipeline.config.optimizers import AdamSettings, SGDSettings
from pipeline.config.params import Params
from pipeline.config.printed import PrintedColumn, PrintedGroup, PrintedSuite, PrintedTable, PrintedTables, load_printed
from pipeline.config.reading import load_params, parse_params
from pipeline.config.streaming import Phase, Sizes, StoredSize, StreamingSettings, TestCrop
from pipeline.config.tables import PaperTable, TableColumn, TableSettings
from pipeline.config.training import SelectionSettings

__all__ = [
    "DERIVED_METRICS",
    "OOD_METRICS",
    "STREAMED",
    "TRAINING_SECONDS",
    "AblationFigure",
    "AdamSettings",
    "AugmentationSettings",
    "Axis",
    "ClassWiseFigure",
    "DataSettings",
    "DatasetName",
    "EnsembleAttack",
    "EvaluationAttack",
    "EvaluationSettings",
    "Experiment",
    "FigureSettings",
    "FrameworkFigure",
    "GradCAMFigure",
    "GradientProjectionSettings",
    "LearnerSettings",
    "MixtureSettings",
    "ModeConnectivitySettings",
    "MovingAverageSettings",
    "OODSettings",
    "PaperTable",
    "Params",
    "ParetoFigure",
    "Passes",
    "Phase",
    "PrintedColumn",
    "PrintedGroup",
    "PrintedSuite",
    "PrintedTable",
    "PrintedTables",
    "ProtocolsFigure",
    "SGDSettings",
    "SelectionSettings",
    "SingleAttack",
    "Sizes",
    "StabilityFigure",
    "StoredSize",
    "StreamingSettings",
    "TableColumn",
    "TableSettings",
    "TestCrop",
    "TheoryFigure",
    "TradeOffFigure",
    "TrainingCurvesFigure",
    "load_params",
    "load_printed",
    "parse_params",
]
