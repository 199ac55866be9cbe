"""Warm-ups that experiments share: until t' no learner hears of the others, so that equal ones are trained once.

An experiment leaves its warm-up after the last step of an epoch, before that epoch is measured and learners restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.config import Experiment
from pipeline.config.mixture import SingleSettings
from pipeline.core.values import _digest


@dataclass(frozen=True)
class Member:
    """An experiment, and what it may have in common with others."""

    experiment: Experiment
    learners: tuple[str, ...]
    """A digest for each learner, in their order, of all that decides what it becomes as long as it is alone."""
    apart_until: int
    """The last epoch in all whose steps its learners are alone."""

    @classmethod
    def of(cls, experiment: Experiment) -> Member:
        """The member that an experiment may be."""
        identity = experiment.training_identity()
        learners = identity.pop("learners")
        del identity["mixture"]
        rule = experiment.method.mixture or SingleSettings()
        return cls(
            experiment,
            tuple(_digest({**identity, "name": name, "learner": learner}) for name, learner in learners.items()),
            rule.apart_until(experiment.training.epochs),
        )

    @property
    def is_mixed(self) -> bool:
        """Whether a mixture will combine its learners."""
        return self.experiment.method.mixture is not None


@dataclass(frozen=True)
class WarmUp:
    """What several experiments of the same data, network, seed and steps train alike, from the first epoch on."""

    members: tuple[Member, ...]
    """Ordered by the number of their learners, most first; at least one has a mixture."""

    @property
    def experiments(self) -> list[Experiment]:
        """Its members'."""
        return [member.experiment for member in self.members]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over the members."""
        return _digest({"warm_up_of": sorted(one.fingerprint for one in self.experiments)})

    def lasts_for(self, member: Member) -> int:
        """The epochs that a member shares: a baseline, as many as the mixtures do."""
        return min(member.apart_until, max(one.apart_until for one in self.members if one.is_mixed))

    @property
    def learner_epochs(self) -> int:
        """Epochs of one learner, each trained once."""
        found: dict[str, int] = {}
        for member in self.members:
            for key in member.learners:
                found[key] = max(found.get(key, 0), self.lasts_for(member))
        return sum(found.values())

    @property
    def learner_epochs_saved(self) -> int:
        """Epochs of one learner that members would train besides, each by itself."""
        alone = sum(len(member.learners) * self.lasts_for(member) for member in self.members)
        return alone - self.learner_epochs


def shared_warm_ups(experiments: Iterable[Experiment]) -> list[WarmUp]:
    """The warm-ups that experiments share, of which each experiment is in one at most.

    Members are linked by learners that they have in common. Left out are experiments that ask for none
    (`training.share_warm_ups`), that measure theory while they train, and whose rule lets learners hear of each other
    from the first epoch on.
    """
    each = {one.fingerprint: one for one in experiments}.values()
    fit = [one for one in each if one.training.share_warm_ups and one.training.theory is None]
    members = [member for member in map(Member.of, fit) if member.apart_until > 0]
    groups: list[list[Member]] = []
    for one in sorted(members, key=lambda member: not member.is_mixed):
        linked = [group for group in groups if _has_a_learner_of(one, group)]
        if linked or one.is_mixed:
            groups = [group for group in groups if group not in linked]
            groups.append([*(member for group in linked for member in group), one])
    found = [WarmUp(tuple(sorted(group, key=lambda member: -len(member.learners)))) for group in groups]
    return [warm_up for warm_up in found if warm_up.learner_epochs_saved > 0]


def _has_a_learner_of(one: Member, group: Sequence[Member]) -> bool:
    """Whether they have a learner in common, trained in the same way: device and threads are no part of its digest,
    since a training goes on where they change in between."""
    alike = [member for member in group if member.experiment.training == one.experiment.training]
    return any(key in member.learners for member in alike for key in one.learners)
