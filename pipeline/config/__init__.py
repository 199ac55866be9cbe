"""The schema of `params.yaml`, and how it is read."""

from pipeline.config.data import STREAMED, AugmentationSettings, DatasetName, DataSettings
from pipeline.config.evaluation import (
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
from pipeline.config.figures import Axis, FigureSettings, FigureSource
from pipeline.config.methods import AdamSettings, LearnerSettings, SGDSettings
from pipeline.config.metrics import Metric
from pipeline.config.mixture import MixtureSettings
from pipeline.config.mixtures.gradient_projection import GradientProjectionSettings
from pipeline.config.mixtures.mode_connectivity import ModeConnectivitySettings
from pipeline.config.mixtures.moving_average import MovingAverageSettings
from pipeline.config.params import Params
from pipeline.config.printed import PrintedColumn, PrintedGroup, PrintedSuite, PrintedTable, PrintedTables, load_printed
from pipeline.config.reading import load_params, parse_params
from pipeline.config.streaming import Phase, Sizes, StoredSize, StreamingSettings, TestCrop
from pipeline.config.tables import PaperTable, TableColumn, TableSettings
from pipeline.config.training import SelectionSettings
