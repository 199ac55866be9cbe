"""What benchmarks have measured, as Markdown: one function for each block of the pages, each from results alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.findings_of_imagenet import imagenet
from benchmarks.findings_of_theory import learners_epsilons, minibatch_gradients, theorem_2, theory
from benchmarks.formats import Results, Unmeasured, need, number, percent, ranged, source, table
from benchmarks.timing import spread
from pipeline.reporting.page.text import html

DEVIATIONS = ("mean", "seed_deviation", "difference")


def headline(results: Results) -> str:
    """The step against the plain loop."""
    found = need(results, "step")
    ratio = f"{number(found['ratio_median'])} ({number(found['ratio_min'])}, {number(found['ratio_max'])})"
    rows = [
        ["plain loop", number(found["plain_images_per_second"])],
        ["this project", number(found["our_images_per_second"])],
        [f"ratio, median of {found['rounds']} rounds (least, most)", f"**{ratio}**"],
    ]
    arithmetic = "bfloat16" if found["bfloat16"] else "float32"
    share = number(100 * found["mixture_share_of_step"])
    settings = (
        f"Generalist-D (NT + linf), {found['architecture']}, batch {found['batch_size']}, {found['attack_steps']} "
        f"attack steps, {arithmetic} against float32; the mixture takes {share} % of a step."
    )
    return f"{table(['', 'images/s'], rows)}\n\n{settings} {source(results, 'step')}"


def methods(results: Results) -> str:
    """Every method with ResNet-18."""
    found = need(results, "methods", "architectures", "resnet18")
    rows = [
        [
            str(html(one["label"])),
            ranged(one["images_per_second"]),
            ranged(one["reference_images_per_second"]),
            ranged(one["ratio"]),
            ranged(one["relative_to_at"]),
        ]
        for one in found["methods"].values()
    ]
    header = ["method", "images/s", "reference style", "ratio", "time of a step relative to AT"]
    settings = f"ResNet-18, batch {found['batch_size']}, {found['attack_steps']} attack steps."
    return f"{table(header, rows)}\n\n{settings} {source(results, 'methods')}"


def architectures(results: Results) -> str:
    """The other networks."""
    cases = {name: case for name, case in need(results, "methods", "architectures").items() if name != "resnet18"}
    rows = [
        [
            name,
            case["dataset"],
            f"{case['batch_size']}",
            str(html(one["label"])),
            ranged(one["images_per_second"]),
            ranged(one["reference_images_per_second"]),
            ranged(one["ratio"]),
        ]
        for name, case in cases.items()
        for one in case["methods"].values()
    ]
    header = ["network", "images of", "batch", "method", "images/s", "reference style", "ratio"]
    return f"{table(header, rows, left=4)}\n\n{source(results, 'methods')}"


def savings(results: Results) -> str:
    """What each habit costs."""
    found = need(results, "savings")
    habits, augmentation = found["habits"], found["augmentation"]
    rows = [
        [name if name != "all" else "all habits: the reference style", ranged(ratio)]
        for name, ratio in habits["relative_to_none"].items()
    ]
    return (
        f"{table(['a step with', 'takes so many times as long'], rows)}\n\n"
        f"{found['architecture']}, batch {found['batch_size']}. The reference style takes "
        f"{ranged(habits['reference_style_to_plain_loop'])} times as long as the loop written by hand. Augmenting a "
        f"minibatch at once is {ranged(augmentation['ratio'])} times as fast as torchvision's transforms, image by "
        f"image. {source(results, 'savings')}"
    )


def peak(results: Results) -> str:
    """Shares of the device's peak."""
    found = need(results, "peak")
    rows = [
        [
            arithmetic,
            part,
            number(share[part]["gigaflops_per_image"]),
            ranged(share[part]["teraflops"]),
            number(share["peak_teraflops"]),
            percent(share[part]["share_of_peak"]),
        ]
        for arithmetic, share in found["shares"].items()
        for part in ("crafting", "step")
    ]
    header = ["arithmetic", "AT", "operations per image, 1e9", "1e12 per second", "peak", "share of the peak, %"]
    counted = [
        [name, *(number(by_method[method]) for method in by_method)]
        for name, by_method in found["gigaflops_per_image"].items()
    ]
    names = next(iter(found["gigaflops_per_image"].values()))
    return (
        f"{table(header, rows, left=2)}\n\n{found['architecture']}, batch {found['batch_size']}. "
        f"{source(results, 'peak')}\n\n"
        f"Operations of a step per image, 1e9:\n\n{table(['network', *(f'`{name}`' for name in names)], counted)}"
    )


def generalist_t(results: Results) -> str:
    """The whole against its parts."""
    found = need(results, "mixture", "generalist_t")
    return (
        f"A step of Generalist-T, mixture included, takes {ranged(found['ratio'])} times the sum of its three "
        f"learners' own steps, timed apart and in turn; the mixture is {percent(found['mixture_share'])} % of it "
        f"({found['architecture']}, batch {found['batch_size']}). {source(results, 'mixture')}"
    )


def mixture(results: Results) -> str:
    """The mixture by network and number of learners."""
    found = need(results, "mixture", "mixture")
    rows = [
        [
            name,
            number(one["weights_megabytes"]),
            learners,
            ranged(one["seconds"], 1000),
            ranged(one["gigabytes_per_second"]),
            ranged(one["copy_gigabytes_per_second"]),
            ranged(one["cloning_ratio"]),
            _share_of_step(results, name, one["seconds"]["median"]),
        ]
        for name, by_learners in found.items()
        for learners, one in by_learners.items()
    ]
    header = [
        "network",
        "weights, MB",
        "learners",
        "ms",
        "GB/s",
        "plain copy, GB/s",
        "cloning takes",
        "share of a step, %",
    ]
    return (
        f"{table(header, rows)}\n\nShare of a step: of Generalist-T's at the suite's batch size, estimated from its "
        f"rate at the small batch of the table of networks. {source(results, 'mixture')}"
    )


def _share_of_step(results: Results, architecture: str, seconds: float) -> str:
    """The share of a mixture in a whole step."""
    try:
        case = need(results, "methods", "architectures", architecture)
    except Unmeasured:
        return "not measured"
    rate = case["methods"]["generalist_t"]["images_per_second"]["median"]
    return number(100 * seconds * rate / case["suite_batch_size"])


def evaluation(results: Results) -> str:
    """PGD-20 by batch size."""
    suites = need(results, "evaluation", "suites")
    rows = [
        [
            f"{name}, {suite['architecture']}",
            size,
            ranged(one["images_per_second"]),
            ranged(one["growth"]) if "growth" in one else "",
        ]
        for name, suite in suites.items()
        for size, one in suite["batch_sizes"].items()
    ]
    suggestions = "; ".join(
        f"{name}: {suite['suggested_batch_size']} is suggested ({suite['reason']}), "
        f"{suite['configured_batch_size']} is configured"
        for name, suite in suites.items()
    )
    header = ["suite", "batch", "images/s", "times as many as with half"]
    return f"{table(header, rows)}\n\n{suggestions}. {source(results, 'evaluation')}"


def autoattack(results: Results) -> str:
    """Against the package."""
    found = need(results, "autoattack")
    ratio = " (".join(
        [number(found["ratio_median"]), f"{number(found['ratio_least'])}, {number(found['ratio_most'])})"]
    )
    return (
        f"AutoAttack, journal included, takes {ratio} times as long as `pyautoattack` called directly, with the same "
        f"verdicts: {found['images']} digits, {found['rounds']} rounds. {source(results, 'autoattack')}"
    )


def growth(results: Results) -> str:
    """How a step grows with what."""
    found = need(results, "scaling")
    varied = {
        "batch_size": "images",
        "attack_steps": "attack steps",
        "learners": "learners",
        "processes": "processes, data parallel",
        "learner_parallel": "processes, learner parallel",
    }
    rows = [
        [shown, key, ranged(one["seconds"]), ranged(one["images_per_second"])]
        for name, shown in varied.items()
        for key, one in found[name].items()
    ]
    lines = [_line(found[name], varied[name]) for name in ("batch_size", "attack_steps", "learners")]
    alone = found["processes"]["1"]["seconds"]["median"]
    lines += [
        f"**{varied[name]}**: {count} are {number(alone / one['seconds']['median'])} times as fast as one."
        for name in ("processes", "learner_parallel")
        for count, one in found[name].items()
        if count != "1"
    ]
    settings = found["settings"]
    remark = (
        f"{settings['architecture']}; AT, or linf learners; batch {settings['batch_size']} where something else "
        f"varies. Processes share a minibatch of {settings['shared_batch_size']} in Generalist-D (linf + l2), one "
        f"thread or GPU each. {source(results, 'scaling')}"
    )
    measured = table(["what varies", "number", "seconds of a step", "images/s"], rows)
    return "\n\n".join([measured, "\n".join(f"- {line}" for line in lines), remark])


def _line(measured: Mapping[str, Any], shown: str) -> str:
    """A straight line through the medians."""
    counts = [float(key) for key in measured]
    seconds = [one["seconds"]["median"] for one in measured.values()]
    slope, intercept = np.polyfit(counts, seconds, 1)
    residual = max(abs(slope * count + intercept - value) / value for count, value in zip(counts, seconds, strict=True))
    return (
        f"**{shown}**: {number(round(intercept, 6))} s + {number(round(slope, 6))} s x {shown}; no median is further "
        f"than {100 * residual:.1f} % from that line."
    )


def memory(results: Results) -> str:
    """Peaks."""
    found = need(results, "memory")
    text = (
        f"A training of Generalist-D (NT + linf), {found['architecture']}, batch {found['batch_size']}, on a data set "
        f"of CIFAR-10's size ({number(found['data_megabytes'])} MB as uint8) needs "
        f"{number(found['peak_mebibytes'])} MiB at most"
    )
    if "peak_device_mebibytes" in found:
        text += f", {number(found['peak_device_mebibytes'])} MiB on the device"
    learners = ", ".join(
        f"{number(peak)} MiB for {count}" for count, peak in found["peak_mebibytes_by_learners"].items()
    )
    return f"{text}. By number of linf learners, without the data set: {learners}. {source(results, 'memory')}"


def ood_memory(results: Results) -> str:
    """Peaks of an evaluation on corruptions."""
    found = need(results, "ood_memory")
    peaks = ", ".join(f"{number(peak)} MiB for {count}" for count, peak in found["peak_mebibytes"].items())
    return f"An evaluation on CIFAR-10-C, by number of corruptions: {peaks}. {source(results, 'ood_memory')}"


def imagefolder(results: Results) -> str:
    """Reading images from files."""
    found = need(results, "imagefolder")
    times = found["milliseconds_per_image"]
    shown = table(["", "ms"], [[name, ranged(taken)] for name, taken in times.items()])
    memory = ", ".join(f"{mebibytes:,.2f}" for mebibytes in found["resident_mebibytes_after_each_round"])
    return (
        f"{shown}\n\nMedian (least, most) of {found['rounds']} rounds, all in turn in one process. Memory after each "
        f"round: {memory} MiB, most of it torch's libraries. {source(results, 'imagefolder')}"
    )


def equality(results: Results) -> str:
    """What fast arithmetic changes, beside what a seed changes."""
    found = need(results, "equality")
    rows = [
        [suite, content["architecture"], metric, variant, *(f"{100 * values[key]:.2f}" for key in DEVIATIONS)]
        for suite, content in found["suites"].items()
        for metric, variants in content["variants"].items()
        for variant, values in variants.items()
    ]
    header = ["suite", "network", "accuracy", "arithmetic", "mean, %", "deviation of seeds", "difference to float32"]
    sizes = "; ".join(
        f"{suite}: {content['seeds']} seeds, {content['epochs']} epochs of {content['train_images']} images, "
        f"{content['test_images']} test images"
        for suite, content in found["suites"].items()
    )
    return f"{table(header, rows, left=4)}\n\n{sizes}. {source(results, 'equality')}"


def grid(results: Results) -> str:
    """What a second worker brings."""
    found = need(results, "grid")
    machine = found.get("two_processes_to_one")
    limit = f" (two processes without Prefect: {number(machine)})" if machine else ""
    alone, one, two = (spread(found["seconds"][name]) for name in ("alone", "one_worker", "two_workers"))
    return (
        f"{found['experiments']} short experiments take {ranged(alone)} s alone in one process, {ranged(one)} s with "
        f"one worker and {ranged(two)} s with two, each with one core: two workers take "
        f"{number(found['two_workers_to_one'])} of one's time{limit}, and "
        "orchestration adds "
        f"{number(found['orchestration_seconds_per_experiment'])} s to an experiment. {source(results, 'grid')}"
    )


def methods_picture(results: Results) -> str:
    """Every method, drawn."""
    need(results, "methods", "architectures", "resnet18")
    return "![Images per second of every method, in both styles](../reports/published/performance/methods.png)"


def growth_picture(results: Results) -> str:
    """How a step grows, drawn."""
    need(results, "scaling")
    words = "Seconds of a step by images, attack steps, learners, processes"
    return f"![{words}](../reports/published/performance/growth.png)"


def warm_ups(results: Results) -> str:
    """What sharing warm-ups saves."""
    found = need(results, "warm_ups")
    names = {"make repro": "`make repro`", "study": ", ".join(f"`{study}`" for study in found["studies"])}
    rows = [
        [
            f"{names[name]}, {one['experiments']} experiments",
            f"{one['learner_epochs']['alone']:,}",
            f"{one['learner_epochs']['shared']:,}",
            ranged(one["seconds"]["alone"]),
            ranged(one["seconds"]["shared"]),
            ranged(one["ratio"]),
        ]
        for name, one in found["sets"].items()
    ]
    header = ["digits", "epochs of a learner, alone", "shared", "seconds, alone", "shared", "ratio"]
    rounds = f"{found['rounds']} round{'s' if found['rounds'] > 1 else ''}"
    return f"{table(header, rows)}\n\nTraining alone, {rounds}. {source(results, 'warm_ups')}"


BLOCKS: dict[str, Callable[[Results], str]] = {
    render.__name__: render
    for render in (
        headline,
        methods,
        architectures,
        savings,
        peak,
        generalist_t,
        mixture,
        evaluation,
        autoattack,
        growth,
        memory,
        ood_memory,
        imagefolder,
        equality,
        grid,
        warm_ups,
        theory,
        theorem_2,
        learners_epsilons,
        minibatch_gradients,
        imagenet,
        methods_picture,
        growth_picture,
    )
}
ON_THE_HOST = {
    "grid", "ood_memory", "imagefolder", "theorem_2", "learners_epsilons",
    "minibatch_gradients", "methods_picture", "growth_picture",
}  # fmt: skip
"""Blocks that have nothing to say of a GPU."""
