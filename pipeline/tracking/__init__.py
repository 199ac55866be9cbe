"""MLflow: one run per experiment and code, found again by its fingerprint and the digest of the code.

This is the only package that imports mlflow, and it does so when a run is opened or read, not before.

What is written goes through a spool on the disk (`spool`), from which a thread delivers it (`delivery`): a store that
is out of reach stops nothing. What is read needs the store.

All that asks the store raises `RequestError` where `MLFLOW_TRACKING_URI` is no address that MLflow takes, and
`PipelineError` where the store is missing, out of reach, damaged, or fails.

A run's tags `evaluated` and `evaluation_fingerprint` say which numbers it holds, whatever its status: a run that is
trained or evaluated again is open meanwhile, and what it held before stays valid until its replacement begins.
"""

from pipeline.tracking.browsing import list_of_runs
from pipeline.tracking.condition import deleted_suites, describe_store
from pipeline.tracking.delivery import DeliveryReport, count_left, deliver_left
from pipeline.tracking.frames import (
    StoredRun,
    download,
    finished_runs,
    read_artifacts,
    read_class_accuracies,
    read_experiment,
    read_histories,
    read_run,
    read_selected_epochs,
    read_trials,
    runs_of_other_protocols,
)
from pipeline.tracking.home import sqlite_uri
from pipeline.tracking.origin import (
    CODE_TAGS,
    OTHER_CODE,
    THIS_CODE,
    UNKNOWN_CODE,
    log_vouchers,
    made_by,
    tags_of_latest,
)
from pipeline.tracking.registry import RegisteredModel, register_model
from pipeline.tracking.run import (
    DataDescription,
    TrackedRun,
    Tracker,
    awaits_delivery,
    ensure_logged,
    ensure_ood_logged,
    evaluated,
    last_epoch,
    log_stability,
    mark_cells,
    mark_failed,
    mark_trial,
    track,
    untracked,
)
from pipeline.tracking.store import lost_runs, make_store, mask, tracking_uri
