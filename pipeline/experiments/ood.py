"""Corrupted test images, and an experiment's accuracy on them: what `stages.corrupt` and `stages.ood` do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import DataSettings, Experiment, Params
from pipeline.core.files import (
    Damaged,
    exclusive,
    file_digest,
    read_kept,
    read_record,
    remove_half_written,
    write_record,
    write_text,
)
from pipeline.data.corruptions.facts import BENCHMARK_PERTURBATIONS, CORRUPTIONS, RELEASES
from pipeline.data.corruptions.folders import ImageFolder, Kind, open_corruptions, open_perturbations, open_regenerated
from pipeline.experiments.results import load_trained
from pipeline.provenance.code import digest_of
from pipeline.provenance.folders import corrupted_folder, ood_folder, prepared_folder, training_folder, working_folder

if TYPE_CHECKING:
    from pipeline.data.corruptions.generate import CleanImages

NAMES: dict[Kind, tuple[str, ...]] = {"corruptions": CORRUPTIONS, "perturbations": BENCHMARK_PERTURBATIONS}
CHOICE = "choice.json"


def prepare_corrupted(params: Params, processes: int, download: bool) -> dict[str, str]:
    """Check the released files, or write our own; see `OODSettings.source`.

    Args:
        processes: How many regenerate images.
        download: Fetch the released corruptions where they are missing.

    Returns:
        Provenance by kind: 'official', 'unverified' or 'regenerated'.

    Raises:
        RequestError: `official` is asked for and files are missing or damaged, or the data is not prepared.
    """
    from pipeline.data.corruptions.generate import regenerate

    settings, dataset = params.ood, params.data.name
    clean = _clean_images(params.data, settings.images)
    found = {kind: _released(kind, params, download) for kind in NAMES}  # all of them before hours of work
    chosen: dict[str, str] = {}
    for kind, released in found.items():
        if released is None:
            regenerate(kind, clean, _regenerated(dataset, kind), NAMES[kind], settings.seed, processes)
        chosen[kind] = "regenerated" if released is None else released.provenance
    write_record(corrupted_folder(dataset) / CHOICE, chosen)
    return chosen


def _released(kind: Kind, params: Params, download: bool) -> ImageFolder | None:
    """The released files; None where our own are to be used."""
    dataset, root, source = params.data.name, params.data.root, params.ood.source
    wanted = download and kind == "corruptions"
    if source == "regenerated" or (source == "auto" and not wanted and not _lies_there(kind, dataset, root)):
        return None
    return _open_released(kind, params.data, download)


def _open_released(kind: Kind, data: DataSettings, download: bool = False) -> ImageFolder:
    if kind == "corruptions":
        return open_corruptions(data.root, data.name, NAMES[kind], download)
    return open_perturbations(data.root, data.name, _clean_images(data, None).labels, NAMES[kind])


def _lies_there(kind: Kind, dataset: str, root: Path) -> bool:
    """Whether the folder of a release exists, whole or damaged: damage must be reported."""
    if dataset not in RELEASES:
        return False
    release = RELEASES[dataset]
    return (root / (release.folder if kind == "corruptions" else release.sequence_folder)).exists()


def _regenerated(dataset: str, kind: Kind) -> Path:
    return corrupted_folder(dataset) / kind


def _clean_images(data: DataSettings, count: int | None) -> CleanImages:
    """The first test images in the official order."""
    from pipeline.data.corruptions.generate import CleanImages
    from pipeline.data.split import open_split

    test = open_split(prepared_folder(data.name), data.model_copy(update={"test_images": None})).test
    images = test.images[:count].permute(0, 2, 3, 1).contiguous().numpy()
    return CleanImages(data.name, images, test.labels[:count].numpy())


def measure_ood(experiment: Experiment) -> dict[str, float]:
    """Accuracy of an experiment's weights on the corrupted images, written below `results/` and logged to MLflow.

    Returns:
        `OOD_METRICS`, in [0, 1].

    Raises:
        RequestError: the experiment is not trained, or the corrupted images are not there.
    """
    from pipeline.core.devices import choose_backend
    from pipeline.data.split import open_split
    from pipeline.evaluation.corruption_scores import (
        corruption_accuracies,
        corruption_summary,
        perturbation_scores,
        perturbation_summary,
    )
    from pipeline.tracking import DataDescription, track

    backend = choose_backend(experiment.training.device, "float32", experiment.training.threads)
    output = ood_folder(experiment)
    with exclusive(working_folder(experiment) / "lock", f"experiment {experiment.identifier}"):
        model = load_trained(experiment).to(backend.device)
        folders, started = corrupted_images(experiment), time.perf_counter()
        options: Any = {"device": backend.device, "images": experiment.ood.images}
        accuracies = corruption_accuracies(model, folders["corruptions"], **options)
        scores = perturbation_scores(model, folders["perturbations"], **options)
        c, p = corruption_summary(accuracies), perturbation_summary(scores)
        metrics = {
            "ood_c_severity_5": c["accuracy_severity_5"],
            "ood_c": c["accuracy"],
            "ood_mce": c["mce"],
            "ood_p": p["accuracy"],
            "ood_mfp": p["mfp"],
        }
        remove_half_written(output)
        write_text(output / "corruptions.csv", accuracies.to_csv(index=False))
        write_text(output / "perturbations.csv", scores.to_csv(index=False))
        content = {
            "fingerprint": experiment.fingerprint,
            "weights_sha256": file_digest(training_folder(experiment) / "model.safetensors"),
            "ood_fingerprint": experiment.ood_fingerprint,
            "ood_code": digest_of("ood", experiment),
            "provenance": {kind: folder.provenance for kind, folder in folders.items()},
            "metrics": metrics,
            "images": int(accuracies["images"].min()),
            "seconds": time.perf_counter() - started,
        }
        write_record(output / "metrics.json", content, ["corruptions.csv", "perturbations.csv"])
        split = open_split(prepared_folder(experiment.data.name), experiment.data, experiment.stored_sizes)
        data = DataDescription(experiment.data.name, split.digest, split.counts)
        with track(experiment, data) as run:
            run.log_ood(output)
    return metrics


def corrupted_images(experiment: Experiment) -> dict[Kind, ImageFolder]:
    """The checked images of both kinds.

    Raises:
        RequestError: they are not there, or are damaged.
    """
    dataset = experiment.data.name
    missing = f"the corrupted images of {dataset} are not ready"
    chosen = read_kept(corrupted_folder(dataset) / CHOICE, missing, "run 'python -m stages.corrupt' first")
    return {
        kind: open_regenerated(_regenerated(dataset, kind), kind, NAMES[kind])
        if chosen[kind] == "regenerated"
        else _open_released(kind, experiment.data)
        for kind in NAMES
    }


def check_ood_results(experiment: Experiment) -> None:
    """Refuse (Damaged) what `measure_ood` has left if it is not as it was written; what is not there is not missed.

    Raises:
        Damaged: a file is not; the message says which command writes it anew.
    """
    try:
        read_record(ood_folder(experiment) / "metrics.json")
    except FileNotFoundError:
        return
    except Damaged as error:
        way_out = f"run 'python -m stages.ood {experiment.name} --seed {experiment.seed}' first"
        raise Damaged(f"{error}; {way_out}") from None
