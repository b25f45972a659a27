"""What a page is made of. A `reparamkit.Report` is one; this package does not know the class, which knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from reparamkit.errors import Refusal
    from reparamkit.report.merged import Merged
    from reparamkit.timing.timed import Timings
    from reparamkit.verify import Comparison


class Reported(Protocol):
    """See `reparamkit.Report`."""

    @property
    def recipe(self) -> str:
        """Name of the recipe."""

    @property
    def policy(self) -> str:
        """Name of the policy."""

    @property
    def merged(self) -> tuple[Merged, ...]:
        """Every merge."""

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """What could not be merged."""

    @property
    def untraceable(self) -> tuple[Refusal, ...]:
        """Modules whose forward could not be traced."""

    @property
    def whole_model(self) -> Comparison | None:
        """Comparison of the whole model, if it was made."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is exact about the merges, and still worth knowing."""

    @property
    def timed(self) -> Timings | None:
        """What was timed to decide, where the policy wants that."""

    @property
    def max_error(self) -> float | None:
        """Largest error of a merge."""

    @property
    def key_map(self) -> Mapping[str, tuple[str, ...]]:
        """Where each weight went."""
