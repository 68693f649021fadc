"""The weights of a subnet: those that it shares in the supernet, or its own after a recovery."""

from __future__ import annotations

import copy
from functools import cached_property

from torch import nn

from nasvid.architecture import Architecture
from nasvid.recipe.sections import RecoverSection
from nasvid.run.session import Session
from nasvid.run.tune import Tuning
from nasvid.search.front import read_front
from nasvid.supernet import Supernet


def recovery(session: Session, section: RecoverSection) -> Tuning:
    """Return how candidates are recovered."""
    return Tuning(
        session=session,
        section=section,
        stage="recover",
        setting="front.recover",
        folder=session.folder.recover / "checkpoints",
        start=lambda arch: session.supernet.extract(arch),
    )


class OwnWeights:
    """Supernets in which a subnet has its own weights, where it has any.

    They share one copy of the trained supernet's weights, which holds one subnet's at a time.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    def supernet(self, arch: Architecture) -> Supernet:
        """Return the supernet to take a subnet from: it is valid until the next call.

        Raises:
            UserError: the recovery of the subnet is not finished.
        """
        section = self.session.recipe.front.recover
        if section is None or arch.id not in self._recovered:
            return self.session.supernet
        return self.with_model(arch, recovery(self.session, section).tuned(arch).net)

    def with_model(self, arch: Architecture, model: nn.Module) -> Supernet:
        """Return the supernet with a model's weights in place of a subnet's."""
        self.copy.net.load_state_dict(self.session.supernet.net.state_dict())
        self.copy.insert(arch, model)
        return self.copy

    @cached_property
    def copy(self) -> Supernet:
        """The copy of the trained supernet, in eval mode."""
        supernet = self.session.supernet
        return Supernet(supernet.space, copy.deepcopy(supernet.net))

    @cached_property
    def _recovered(self) -> set[str]:
        """The ids of the members that were chosen after a recovery."""
        path = self.session.folder.recovered_front
        if not path.exists():
            return set()
        return {member.evaluation.arch.id for member in read_front(path).members}
