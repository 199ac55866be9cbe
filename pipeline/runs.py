"""One experiment from data to verdicts: training, evaluation, their files and their MLflow run.

`train` and `evaluate` leave plain files below `results/`, which DVC keeps; everything that a tracker, a table or a
report needs is in them. Checkpoints and journals are below `runs/`, which DVC never deletes.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import DataSettings, EvaluationSettings, Experiment
from pipeline.errors import Interrupted, PipelineError, RequestError
from pipeline.files import (
    POLL,
    Busy,
    Damaged,
    atomic_write,
    exclusive,
    file_digest,
    read_record,
    remove_half_written,
    write_json,
    write_record,
    write_text,
)
from pipeline.folders import RUNS as RUNS
from pipeline.folders import state_folder
from pipeline.folders import working_folder as working_folder
from pipeline.progress import EvaluationDisplay, TrainingDisplay
from pipeline.provenance.code import UNKNOWN, Code, changes, code_of, digest_of, named
from pipeline.provenance.commit import git_commit, versions
from pipeline.provenance.keeping import CODE_FILE, EVALUATION_CODE_FILE, begin, newest, read_code

if TYPE_CHECKING:
    import pandas as pd

WAIT = 5.0
"""Seconds between two looks at what another process works on."""


def prepared_folder(dataset: str) -> Path:
    """What `prepare` makes of a data set."""
    return Path("data/prepared") / dataset


def journal_folder(experiment: Experiment) -> Path:
    """The journal of one evaluation, by this code or by code that gives the same numbers."""
    digest, name = digest_of("evaluate", experiment), experiment.evaluation_fingerprint
    return state_folder(experiment) / "evaluation" / (name if digest == UNKNOWN else f"{name}-{digest}")


def results_folder(experiment: Experiment) -> Path:
    """What an experiment leaves: the outputs of its DVC stages, or apart from them those of a cell of the grid."""
    return Path("results") / ("ablation" if experiment.grid else "") / experiment.suite / experiment.identifier


def training_folder(experiment: Experiment) -> Path:
    """The files that `train_experiment` leaves: weights, curves, settings, summary."""
    return results_folder(experiment) / "train"


def evaluation_folder(experiment: Experiment) -> Path:
    """The files that `evaluate_experiment` leaves: verdicts and metrics."""
    return results_folder(experiment) / "evaluate"


def train_experiment(
    experiment: Experiment, should_stop: Callable[[], str | None], learner_parallel: bool = False
) -> Path:
    """Train an experiment, or continue it, with a progress display and its MLflow run.

    Under torchrun together with the other processes: the first one alone writes files, shows progress and tracks.

    Args:
        experiment: What to train.
        should_stop: Asked after every step for a reason to save and stop.
        learner_parallel: Under torchrun, each process trains one learner; otherwise all on its part of a minibatch.

    Returns:
        The folder of `model.safetensors`, `history.json`, `experiment.json` and `summary.json`.

    Raises:
        RequestError: the data is not prepared, another process trains this experiment, or its learners cannot be shared
            out among the processes.
        Interrupted: `should_stop` gave a reason; a checkpoint was written first.
        PipelineError: a loss is not finite, every checkpoint is damaged, or another process was lost.
    """
    from pipeline.data.split import open_split
    from pipeline.devices import choose_backend
    from pipeline.tracking import DataDescription, track
    from pipeline.training.distributed import joined
    from pipeline.training.loop import train
    from pipeline.training.observer import Silent

    settings, folder, state = experiment.training, working_folder(experiment), state_folder(experiment)
    code = digest_of("train", experiment)
    split = open_split(prepared_folder(experiment.data.name), experiment.data, experiment.stored_sizes)
    backend = choose_backend(settings.device, settings.precision, settings.threads, settings.compile)
    with joined(backend.device) as ranks:
        if not ranks.is_first:
            train(experiment, split, backend, state, Silent(), should_stop, ranks, learner_parallel, code)
            return training_folder(experiment)
        data = DataDescription(experiment.data.name, split.digest, split.counts)
        with exclusive(folder / "lock", f"experiment {experiment.identifier}"):
            _check_same_data(folder, split.digest)
            earlier = [training_folder(experiment) / CODE_FILE, *newest(folder, "*")]
            begin("train", experiment, state, earlier, folder / "checkpoints")
            with track(experiment, data) as run:
                with TrainingDisplay(experiment.identifier, on_record=run.log_epoch) as display:
                    result = train(
                        experiment, split, backend, state, display, should_stop, ranks, learner_parallel, code
                    )
                _write_training(
                    experiment, result.model, result.history, result.selected_epoch, split.digest, str(backend.device)
                )
                run.log_training(training_folder(experiment))
    return training_folder(experiment)


def _check_same_data(folder: Path, digest: str) -> None:
    """Refuse to continue what was begun on other images: folders of images have no official content.

    Raises:
        RequestError: the digest is not the one that the working folder was begun with, or that one is damaged.
    """
    path = folder / "data.json"
    if not path.exists():
        write_json(path, {"digest": digest})
    try:
        begun = json.loads(path.read_text())["digest"]
    except (ValueError, KeyError, TypeError):
        raise Damaged(
            f"{path}: is damaged; remove it if {folder} was begun with the images that are prepared"
        ) from None
    if begun != digest:
        raise RequestError(
            f"{folder} was begun with images of digest {begun[:16]}..., the prepared ones have {digest[:16]}...; "
            "prepare the former again, or remove the folder to start anew"
        )


def _write_training(
    experiment: Experiment,
    model: Any,
    history: list[dict[str, float]],
    selected_epoch: int,
    data_digest: str,
    device: str,
) -> None:
    from safetensors.torch import save

    folder = training_folder(experiment)
    remove_half_written(folder)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_write(folder / "model.safetensors") as stream:
        stream.write(save(weights, metadata={"fingerprint": experiment.fingerprint}))
    write_json(folder / "experiment.json", experiment.model_dump(mode="json"))
    write_json(folder / "history.json", history)
    write_json(folder / CODE_FILE, code_of("train", experiment).as_json())
    summary = {
        "fingerprint": experiment.fingerprint,
        "training_code": digest_of("train", experiment),
        "data_digest": data_digest,
        "weights_sha256": file_digest(folder / "model.safetensors"),
        "epochs": experiment.training.epochs,
        "selected_epoch": selected_epoch,
        "seconds": sum(record["seconds"] for record in history),
        "device": device,
        "host": socket.gethostname(),
        "git_commit": git_commit(),
        **versions(),
    }
    write_record(folder / "summary.json", summary, ["model.safetensors", "experiment.json", "history.json", CODE_FILE])


def evaluate_experiment(
    experiment: Experiment, shard: str | None = None, check: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Attack the trained weights of an experiment, with a progress display and its MLflow run.

    Args:
        experiment: What to evaluate.
        shard: 'i/n': do the i-th of n slices of the work and journal it, nothing else. Where the journals of all
            slices lie in one folder, the evaluation without a shard only gathers them.
        check: Called after every piece of work; raises to stop.

    Returns:
        Accuracies in [0, 1] by metric; none for a shard.

    Raises:
        RequestError: the experiment is not trained with these settings, the data is not prepared, or the shard is none.
    """
    from pipeline.data.split import open_split
    from pipeline.devices import choose_backend
    from pipeline.evaluation.autoattack import flags
    from pipeline.evaluation.evaluate import Evaluation, Shard
    from pipeline.evaluation.journal import Journal
    from pipeline.tracking import DataDescription, track

    chosen = Shard() if shard is None else Shard.parse(shard)
    settings = experiment.training
    backend = choose_backend(settings.device, "float32", settings.threads, settings.compile)
    model = backend.place(load_trained(experiment))
    split = open_split(prepared_folder(experiment.data.name), experiment.data, experiment.stored_sizes)
    test = split.test.to(backend.device)
    folder, started = working_folder(experiment), time.perf_counter()
    _check_same_data(folder, split.digest)
    journaled = journal_folder(experiment)
    journal = Journal(journaled)

    def measure() -> pd.DataFrame:
        beside, name = journaled.parent, experiment.evaluation_fingerprint
        earlier = [evaluation_folder(experiment) / EVALUATION_CODE_FILE, *newest(beside, f"{name}-*")]
        begin("evaluate", experiment, journaled, earlier, beside / name)
        with EvaluationDisplay(experiment.identifier) as display:
            return Evaluation(model, test, experiment.evaluation, journal, display, check).run(chosen)

    if shard is not None:
        measure()
        return {}
    data = DataDescription(experiment.data.name, split.digest, split.counts)
    with exclusive(folder / "lock", f"experiment {experiment.identifier}"), track(experiment, data) as run:
        identity = {
            "fingerprint": experiment.fingerprint,
            "evaluation_fingerprint": experiment.evaluation_fingerprint,
            "training_code": digest_of("train", experiment),
            "evaluation_code": digest_of("evaluate", experiment),
        }
        output, verdicts = evaluation_folder(experiment), measure()
        flagged, seconds = flags(model, test), time.perf_counter() - started
        code = code_of("evaluate", experiment)
        metrics = write_evaluation(output, verdicts, experiment.evaluation, flagged, identity, seconds, code)
        run.log_evaluation(output)
    return metrics


def write_evaluation(
    output: Path,
    verdicts: pd.DataFrame,
    settings: EvaluationSettings,
    flags: Mapping[str, str],
    identity: dict[str, str],
    seconds: float,
    code: Code | None = None,
) -> dict[str, float]:
    """Write verdicts and what follows from them: metrics with intervals, accuracies by class, signs of masking.

    Args:
        output: The folder.
        verdicts: Of all attacks.
        settings: That gave them.
        flags: What AutoAttack's own checks say of the model.
        identity: What the numbers belong to, kept with them.
        seconds: How long it took.
        code: That gave them, kept beside them.

    Returns:
        Accuracies in [0, 1] by metric.
    """
    from pipeline.evaluation.statistics import class_accuracies, wilson
    from pipeline.evaluation.trust import signs, summary
    from pipeline.evaluation.verdicts import accuracies

    metrics, counts = accuracies(verdicts, settings.union)
    remove_half_written(output)
    with atomic_write(output / "verdicts.parquet") as stream:
        verdicts.to_parquet(stream, index=False)
    write_text(output / "classes.csv", class_accuracies(verdicts).to_csv(index=False))
    write_json(output / "trust.json", summary(signs(verdicts, settings, flags)))
    intervals = {name: wilson(value, counts[name]) for name, value in metrics.items()}
    content = {**identity, "metrics": metrics, "counts": counts, "intervals": intervals, "seconds": seconds}
    files = ["verdicts.parquet", "classes.csv", "trust.json"]
    if code is not None:
        files.append(EVALUATION_CODE_FILE)
        write_json(output / EVALUATION_CODE_FILE, code.as_json())
    write_record(output / "metrics.json", content, files)
    return metrics


def complete_experiment(experiment: Experiment, should_stop: Callable[[], str | None]) -> None:
    """Bring an experiment to its end from wherever it stands: prepare its data, train, evaluate.

    What MLflow has evaluated, or will have once records are delivered, is left as it is; what another process works on
    is waited for. Where MLflow is out of reach, the experiment is worked on from where it stands on this machine.

    Raises:
        Interrupted: `should_stop` gave a reason; what was done is saved.
        RequestError, PipelineError: as `train_experiment` and `evaluate_experiment`.
    """
    from pipeline.tracking import deliver_left

    def check() -> None:
        reason = should_stop()
        if reason is not None:
            raise Interrupted(f"{reason}: what was finished is saved; the same command continues")

    ensure_prepared(experiment, should_stop)
    if text := deliver_left().describe():
        print(text, flush=True)
    while not _is_done(experiment):
        try:
            train_experiment(experiment, should_stop)
            evaluate_experiment(experiment, check=check)
            return
        except Busy as busy:
            print(f"{busy}: waiting", flush=True)
            until = time.monotonic() + WAIT
            while time.monotonic() < until:
                time.sleep(POLL)
                check()


def _is_done(experiment: Experiment) -> bool:
    """Whether MLflow has the numbers of an experiment, or they are on their way to it."""
    from pipeline.tracking import awaits_delivery, evaluated

    try:
        return awaits_delivery(experiment) or bool(evaluated([experiment]))
    except RequestError:
        raise
    except PipelineError as error:
        print(f"{error} Whether {experiment.identifier} is done elsewhere is not known: it is worked on", flush=True)
        return False


def ensure_prepared(experiment: Experiment, should_stop: Callable[[], str | None] = lambda: None) -> None:
    """Prepare the experiment's data on this machine, unless that is done; one process does it, others wait.

    Raises:
        Interrupted: `should_stop` gave a reason while another process prepared, or while shards were written; finished
            ones are kept.
        RequestError: official files are missing and cannot be downloaded, or are damaged.
    """
    from pipeline.data.images import MANIFEST_FILE

    folder = prepared_folder(experiment.data.name)
    wanted = [folder / str(size) / MANIFEST_FILE for size in experiment.stored_sizes] or [folder / MANIFEST_FILE]
    with _preparing(experiment.data, should_stop):
        if not all(path.exists() for path in wanted):
            print(f"preparing {experiment.data.name} in {folder}", flush=True)
            _prepare(experiment.data, should_stop)


def prepare_data(data: DataSettings, should_stop: Callable[[], str | None]) -> None:
    """Prepare a data set, again if it is there already; where another process does so, wait for it.

    Raises:
        Interrupted, RequestError: as `ensure_prepared`.
    """
    with _preparing(data, should_stop):
        _prepare(data, should_stop)


@contextmanager
def _preparing(data: DataSettings, should_stop: Callable[[], str | None]) -> Iterator[None]:
    """Be the only one who prepares a data set."""

    def check() -> None:
        reason = should_stop()
        if reason is not None:
            raise Interrupted(f"{reason}: another process prepares {data.name}; the same command continues")

    folder = prepared_folder(data.name)
    # Not within the folder: whatever lies there is part of what DVC says it depends on.
    with exclusive(folder.with_name(f".{folder.name}.lock"), f"data set {data.name}", wait=check):
        yield


def _prepare(data: DataSettings, should_stop: Callable[[], str | None]) -> None:
    from pipeline.data.prepare import prepare, prepare_streamed

    folder = prepared_folder(data.name)
    if data.streaming is not None:
        prepare_streamed(data, data.streaming, folder, should_stop)
        return
    manifest = prepare(data, folder)
    print(f"prepared {data.name} in {folder}: sha256 {manifest['sha256'][:16]}...", flush=True)


def load_trained(experiment: Experiment) -> Any:
    """The network of an experiment with its trained weights, in eval mode, on the CPU.

    Raises:
        RequestError: there are no weights, they are damaged, or they belong to other settings.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from pipeline.models import build_model

    folder = training_folder(experiment)
    way_out = _way_out("train", experiment)
    try:
        summary = read_record(folder / "summary.json")
        trained = summary["fingerprint"]
        weights = load_file(folder / "model.safetensors")
    except FileNotFoundError as error:
        raise RequestError(f"{experiment.identifier} is not trained: {error.filename} is missing; {way_out}") from None
    except Damaged as error:
        raise Damaged(f"{error}; {way_out}") from None
    except SafetensorError as error:
        raise Damaged(f"{folder / 'model.safetensors'}: is damaged ({error}); {way_out}") from None
    if trained != experiment.fingerprint:
        raise RequestError(
            f"the weights in {folder} belong to experiment {trained}, params.yaml now declares "
            f"{experiment.fingerprint}; {way_out}"
        )
    if summary.get("training_code", UNKNOWN) != digest_of("train", experiment):
        what = named(changes(read_code(folder / CODE_FILE), code_of("train", experiment)))
        raise RequestError(f"the weights in {folder} were trained by other code: {what}; {way_out}")
    data = experiment.data
    model = build_model(experiment.architecture, data.name, experiment.model.normalization, data.classes)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RequestError(
            f"the trained weights in {folder} do not fit {experiment.architecture} ({' '.join(str(error).split())}); "
            f"{way_out}"
        ) from None
    return model.to(memory_format=torch.channels_last).eval()


def _way_out(stage: str, experiment: Experiment) -> str:
    command = f"python -m stages.{stage} {experiment.name} --seed {experiment.seed}"
    return "run 'make ablation' first" if experiment.grid else f"run '{command}' first"


def load_verdicts(experiment: Experiment) -> pd.DataFrame:
    """The verdicts of an experiment.

    Raises:
        RequestError: it is not evaluated with these settings, or its files are damaged.
    """
    import pandas as pd

    folder = evaluation_folder(experiment)
    way_out = _way_out("evaluate", experiment)
    try:
        record = read_record(folder / "metrics.json")
        evaluated = record["evaluation_fingerprint"]
    except FileNotFoundError as error:
        raise RequestError(
            f"{experiment.identifier} is not evaluated: {error.filename} is missing; {way_out}"
        ) from None
    except Damaged as error:
        raise Damaged(f"{error}; {way_out}") from None
    if evaluated != experiment.evaluation_fingerprint:
        raise RequestError(f"the verdicts in {folder} belong to other settings than params.yaml's; {way_out}")
    if record.get("evaluation_code", UNKNOWN) != digest_of("evaluate", experiment):
        what = named(changes(read_code(folder / EVALUATION_CODE_FILE), code_of("evaluate", experiment)))
        raise RequestError(f"the verdicts in {folder} were given by other code: {what}; {way_out}")
    return pd.read_parquet(folder / "verdicts.parquet")


def check_results(experiment: Experiment) -> None:
    """Look whether what an experiment has left below `results/` is as it was written; what is not there is not missed.

    Raises:
        Damaged: a file is not; the message says which command writes it anew.
    """
    for stage, record in (
        ("train", training_folder(experiment) / "summary.json"),
        ("evaluate", evaluation_folder(experiment) / "metrics.json"),
    ):
        try:
            read_record(record)
        except FileNotFoundError:
            continue
        except Damaged as error:
            raise Damaged(f"{error}; {_way_out(stage, experiment)}") from None
