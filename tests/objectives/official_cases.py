"""The comparisons with official code, in the order of docs/methods.md, and what is not compared."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.attacks.pgd import PGD
from pipeline.evaluation.attacks.autoattack import MEMBER_NAMES, AutoAttack, AutoAttackMember
from pipeline.evaluation.autoattack import ensemble
from pipeline.models.bezier import BezierPath
from pipeline.objectives import Moment, resolve_objective
from pipeline.objectives.part import radii
from pipeline.training.gradient_projection import project_updates
from tests.objectives.official import (
    LABELS,
    SEED,
    Comparison,
    Missing,
    Numbers,
    generator,
    images,
    network,
    pattern,
    points,
    step,
    summary,
    watched,
)
from tests.training.golden import double_precision

EPSILON = 8 / 255
ATTACK_031 = {"norm": "linf", "epsilon": 0.031, "step_size": 0.007, "steps": 10}
GAUSSIAN = {**ATTACK_031, "start": "gaussian"}
PGD_8 = {"norm": "linf", "epsilon": EPSILON, "step_size": 2 / 255, "steps": 10}
APGD_LINF = {"norm": "linf", "epsilon": EPSILON, "steps": 10}
APGD_L2 = {"norm": "l2", "epsilon": 0.5, "steps": 10}
APGD_L1 = {"norm": "l1", "epsilon": 12, "steps": 10}
CLIMBS = [
    {"norm": "l1", "epsilon": 100, "step_size": 1, "steps": 8},
    {"norm": "l2", "epsilon": 0.3, "step_size": 0.05, "steps": 8},
    {"norm": "linf", "epsilon": 0.03, "step_size": 0.003, "steps": 8},
]
"""MSD's, of eight steps. None leaves the l1 ball, outside of which the source projects otherwise."""
L1_CLIMB = [CLIMBS[0], *({**climb, "epsilon": 0} for climb in CLIMBS[1:])]
CURVE_CLIMBS = [
    {"norm": "l1", "epsilon": 12, "step_size": 1, "steps": 8},
    {"norm": "l2", "epsilon": 1, "step_size": 0.2, "steps": 8},
    {"norm": "linf", "epsilon": EPSILON, "step_size": 2 / 255, "steps": 8},
]
EXTRA_LABEL = 3
SPHERES = {"linf": (EPSILON, 10), "l2": (80 / 255, 40)}
"""Radius and number of steps of the attacks of AT average, in [0, 1]."""
RATIOS = (0.3, 0.8)
"""Of IAT's two mixtures."""
RADII, SQUARES = {"linf": 0.06, "l2": 2.0}, {"linf": 0.2, "l2": 8.0}
"""Of FAB-T and of Square, in which they fool."""
TARGETS, QUERIES = 2, 200
"""Of FAB-T and Square; the standard's nine and 5,000 take minutes."""


def extra_image() -> Tensor:
    """RST's whole pool, so that it does not matter which image is drawn: (1, 3, 32, 32), uint8."""
    return (255 * pattern((1, 3, 32, 32), 4)).round().to(torch.uint8)


def self_training() -> Numbers:
    with tempfile.TemporaryDirectory() as folder:
        pool = {"images": extra_image(), "labels": torch.tensor([EXTRA_LABEL])}
        save_file(pool, Path(folder) / "extra.safetensors")
        options = {"name": "rst", "attack": GAUSSIAN, "extra_images": str(Path(folder) / "extra.safetensors")}
        return step(options, margin=0.1)


def sphere_start(norm: str) -> Tensor:
    """Where the attacks of AT average begin, relative to the images: on the surface of the ball."""
    noise = 2 * pattern((8, 3, 32, 32), 5) - 1
    epsilon = SPHERES[norm][0]
    return epsilon * noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1) if norm == "l2" else epsilon * noise


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the best wrong class is above the right one, summed over images."""
    right = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return (logits.scatter(1, labels.unsqueeze(1), -1e4).amax(1) - right).sum()


def climb_margin(norm: Literal["linf", "l2"]) -> Numbers:
    epsilon, steps = SPHERES[norm]
    clean = images(0.1)
    attack = PGD(norm=norm, epsilon=epsilon, step_size=2.5 * epsilon / steps, steps=steps)
    with patch.object(PGD, "starting_points", lambda *_: clean + sphere_start(norm)):
        found = attack.perturb(network(), clean, LABELS, generator(), margin)
    return {"points": points(found, clean)}


def interpolated() -> Numbers:
    ratios: Iterator[float] = iter(RATIOS)
    attack = {"norm": "linf", "epsilon": 0.0314, "step_size": 0.00784, "steps": 7}
    with patch("pipeline.objectives.iat.beta_sample", lambda *_: next(ratios)):
        return step({"name": "iat", "attack": attack}, margin=0.1)


def one_norm(attack: dict[str, Any]) -> Numbers:
    """E-AT with a single norm, and how many images that attack leaves correct."""
    state: dict[str, Any] = {}
    clean, model = images(0), network()
    with watched(model) as seen:
        objective = resolve_objective({"name": "eat", "attacks": [attack]}, {})
        losses = objective(model, clean, LABELS, Moment(1, 1, generator(), state))
    gradients = list(torch.autograd.grad(losses.loss, list(model.parameters())))
    return summary(losses.loss.item(), gradients, seen, clean) | {"correct": [state["counts"][attack["norm"]][0]]}


def fused_tensors() -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Weights before an epoch, after a natural one and after a robust one; of two tensors the updates disagree."""

    def tensors(kind: int) -> list[Tensor]:
        return [2 * pattern(shape, kind) - 1 for shape in ((4, 3), (7,), (2, 2, 3))]

    return tensors(30), tensors(31), tensors(32)


def fusion() -> Numbers:
    old, natural, robust = fused_tensors()
    project_updates(old, natural, robust, 0.5)
    return {"weights": [value for tensor in old for value in tensor.flatten().tolist()]}


def on_a_path() -> Numbers:
    path = BezierPath(network(number=1), network(), network(number=2)).train()
    return step({"name": "rmc", "attacks": CURVE_CLIMBS, "weight_decay": 0.01}, model=path)


def radii_of_part() -> Tensor:
    """7/255 or 8/255, whatever a mask would say."""
    return torch.where(pattern((8, 3, 32, 32), 6) < 0.7, 7 / 255, EPSILON)


def reweighted() -> Numbers:
    """PART's step with radii that both sides are given, from a start that is cut to them."""
    with patch("pipeline.objectives.part.radii", lambda *_: radii_of_part()):
        return step({"name": "part", "attack": PGD_8, "warmup": 0}, margin=0.1)


def masks_agree(rows: list[float]) -> float:
    """The share of PART's radii that are the source's.

    Args:
        rows: Where the source has the larger radius in the first two images: for each row of pixels a number with a bit
            for each of them, the first the lowest.
    """
    with double_precision():
        ours = radii(network(), images(0.1), EPSILON, 7 / 255)[:2] > 7.5 / 255
    theirs = torch.tensor([[int(row) >> place & 1 for place in range(32)] for row in rows], dtype=torch.bool)
    return (ours.view(-1, 32) == theirs).double().mean().item()


def members(norm: Literal["linf", "l2"]) -> Numbers:
    found: Numbers = {}
    wanted: list[tuple[AutoAttackMember, float]] = [("fab_t", RADII[norm]), ("square", SQUARES[norm])]
    for member, radius in wanted:
        settings = AutoAttack(name="autoattack", norm=norm, epsilon=radius, targets=TARGETS, queries=QUERIES)
        attack = ensemble(network().eval(), settings, SEED)[member]
        found[f"points {MEMBER_NAMES[member]}"] = points(attack(images(0), LABELS), images(0))
    return found


def _fat(tau: int) -> Comparison:
    options = {"name": "fat", "attack": {**ATTACK_031, "noise": 0}}
    epoch = (1, 51, 91)[tau]
    return Comparison(
        "FAT",
        "zjfheart/Friendly-Adversarial-Training",
        "80a064074891775146bca8c4d8a6b99c1499285a",
        f"`earlystop`, tau {tau}, omega 0",
        partial(step, options, epoch=epoch, epochs=120),
        "images back in their order",
    )


RAMP_CODE = ("uiuc-focal-lab/RAMP", "be4971f04cf8e70bd8255874a1ed2ab489cae682")
EAT_CODE = ("fra31/robust-finetuning", "0201a492e0ab2179261d0dc5831fb6150b09b562")
SCORE_CODE = ("P2333/SCORE", "e82f44211fdbc3415e1321307f2ffaf71c2d5095")
AGR_CODE = ("RUIYUN-ML/AGR", "03c6ee1b20da0fa5d4e1062dce4b182be1bbfd09")
AVERAGE_CODE = ("ftramer/MultiRobustness", "f51a75e07f06b010f34ee760d80fea05ba8ba785")
MSD_CODE = ("locuslab/robust_union", "ef3419493188e2560b57fab87bdbf42ce8c0287e")
AUTOATTACK_CODE = ("fra31/auto-attack", "a39220048b3c9f2cca9a4d3a54604793c68eca7e")
IN_EVAL_MODE = "crafted in eval mode"
COMPARISONS: dict[str, Comparison] = {
    "pgd": Comparison(
        "AT",
        "PKU-ML/Generalist",
        "f0dc15343715acb786584aa8552a4187bcfef4da",
        "`PGD` of attacks.py, and the cross-entropy of its points",
        partial(step, {"name": "adversarial", "attack": ATTACK_031}),
    ),
    "trades": Comparison(
        "TRADES",
        "yaodongyu/TRADES",
        "6e8e11b7c281371c2f027ffadfbaea80361f09de",
        "`trades_loss`, beta 6, images away from 0 and 1",
        partial(step, {"name": "trades", "beta": 6, "attack": GAUSSIAN}, margin=0.1),
    ),
    "mart": Comparison(
        "MART",
        "YisenWang/MART",
        "2d83e17b381dd2ee52223695e517bf6d5ff09c2c",
        "`mart_loss`, beta 5, images away from 0 and 1",
        partial(step, {"name": "mart", "beta": 5, "attack": GAUSSIAN}, margin=0.1),
    ),
    "fat_tau_0": _fat(0),
    "fat_tau_1": _fat(1),
    "fat_tau_2": _fat(2),
    "rst": Comparison(
        "RST",
        "p-lambda/robust_tradeoff",
        "3999ed408d582a8c281949266ecd4061ae962a01",
        "`madry_loss`, half of the images pseudo-labelled, images away from 0 and 1",
        self_training,
    ),
    "score": Comparison(
        "SCORE",
        *SCORE_CODE,
        "a step of without_DDPM/train_cifar.py: TRADES, LSE, beta 6, clip 0.3",
        partial(step, {"name": "score", "attack": {**PGD_8, "start": "gaussian"}}),
        "inputs not standardised",
    ),
    "score_pgd": Comparison(
        "SCORE (PGD-LSE)",
        *SCORE_CODE,
        "a step of without_DDPM/train_cifar.py: PGD, LSE, clip 0.4",
        partial(step, {"name": "score", "variant": "pgd", "clip": 0.4, "attack": PGD_8}),
        f"inputs not standardised, {IN_EVAL_MODE}",
    ),
    "agr_before": Comparison(
        "AGR",
        *AGR_CODE,
        "a step of train.py before AGR starts, images away from 0 and 1",
        partial(step, {"name": "agr", "attack": PGD_8, "starts_after": 1}, margin=0.1, has_loss=False),
    ),
    "agr_after": Comparison(
        "AGR",
        *AGR_CODE,
        "a step of train.py after AGR starts, images away from 0 and 1",
        partial(step, {"name": "agr", "attack": PGD_8, "starts_after": 0}, margin=0.1, has_loss=False),
    ),
    "part": Comparison(
        "PART",
        "JiachengZ01/PART",
        "5a0ca6b64eab5d5f9af3b022b90d0c86372eb2af",
        "`part_pgd` with radii that are given, and the cross-entropy of its points; images away from 0 and 1",
        reweighted,
        "its start is cut to the radii",
    ),
    "fast_at": Comparison(
        "Fast-AT",
        "locuslab/fast_adversarial",
        "54f728755e71857b632882ba6d6cef22f56e2172",
        "a step of CIFAR10/train_fgsm.py",
        partial(step, {"name": "fast", "attack": PGD_8}),
        f"inputs not standardised, {IN_EVAL_MODE}",
    ),
    "iat": Comparison(
        "IAT",
        "ndb796/Pytorch-Adversarial-Training-CIFAR",
        "e0a5218aee190381577f4067bf71939de1b69f66",
        "a step of interpolated_adversarial_training.py, another's implementation; images away from 0 and 1",
        interpolated,
        f"its draws are given, {IN_EVAL_MODE}, with the statistics of BatchNorm from before the step",
    ),
    "average_linf": Comparison(
        "AT average",
        *AVERAGE_CODE,
        "`PGDAttack` in linf: margin loss, 10 steps, images in [0, 1] and away from its ends",
        partial(climb_margin, "linf"),
        "TensorFlow's session gives the network's gradients, the start is given",
    ),
    "average_l2": Comparison(
        "AT average",
        *AVERAGE_CODE,
        "`PGDAttack` in l2: margin loss, 40 steps, images in [0, 1] and away from its ends",
        partial(climb_margin, "l2"),
        "TensorFlow's session gives the network's gradients, the start is given",
    ),
    "at_max": Comparison(
        "AT max",
        *RAMP_CODE,
        "a step of MAX.py: APGD-10 in linf, l1 and l2",
        partial(step, {"name": "maximum", "attacks": [APGD_LINF, APGD_L1, APGD_L2]}),
    ),
    "msd": Comparison(
        "MSD",
        *MSD_CODE,
        "`msd_v0` of CIFAR10/cifar_funcs.py in l1 (radius 100), l2 and linf, 8 steps",
        partial(step, {"name": "msd", "attacks": CLIMBS}),
        f"its draws of how many coordinates move are given, {IN_EVAL_MODE}",
    ),
    "msd_l1": Comparison(
        "MSD",
        *MSD_CODE,
        "the same with radii of 0 in l2 and linf",
        partial(step, {"name": "msd", "attacks": L1_CLIMB}),
        f"its draws of how many coordinates move are given, {IN_EVAL_MODE}",
    ),
    "eat_linf": Comparison(
        "E-AT", *EAT_CODE, "a step of train.py from scratch: APGD-10 in linf", partial(one_norm, APGD_LINF)
    ),
    "eat_l1": Comparison(
        "E-AT", *EAT_CODE, "a step of train.py from scratch: APGD-10 in l1", partial(one_norm, APGD_L1)
    ),
    "ramp": Comparison(
        "RAMP",
        *RAMP_CODE,
        "a robust step of RAMP.py: linf and l1, lambda 5",
        partial(step, {"name": "ramp", "attacks": [APGD_LINF, APGD_L1], "pairing": 5}),
    ),
    "ramp_fusion": Comparison("RAMP", *RAMP_CODE, "`gp` of utils.py", fusion, "`copy` is imported, which it forgets"),
    "rmc": Comparison(
        "RMC",
        "wangren09/MCGR",
        "6fa0ab3f56dbf65802fad2b494bd07c82564f7cf",
        "`CurveNet`, `l2_regularizer` and `msd_v0` at one point of a Bezier path, 8 steps",
        on_a_path,
        f"its draws are given, {IN_EVAL_MODE}",
    ),
    "autoattack_linf": Comparison(
        "AutoAttack",
        *AUTOATTACK_CODE,
        f"FAB-T at {TARGETS} targets and Square with {QUERIES} queries, both otherwise as in the standard, linf",
        partial(members, "linf"),
    ),
    "autoattack_l2": Comparison(
        "AutoAttack",
        *AUTOATTACK_CODE,
        f"FAB-T at {TARGETS} targets and Square with {QUERIES} queries, both otherwise as in the standard, l2",
        partial(members, "l2"),
    ),
}
MISSING = [
    Missing("IAT", "the authors' own code could not be found"),
    Missing("half-half AT", "its paper has no code"),
    Missing("AT average", "the training step is TensorFlow 1: the mean over one batch of all points", AVERAGE_CODE[0]),
]
