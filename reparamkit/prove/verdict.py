"""verdict: whether what replaces a region is as near to it as it has to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reparamkit.errors import VerificationError

if TYPE_CHECKING:
    from reparamkit.decide.candidate import Candidate


def accepted(error: float, candidate: Candidate, rtol: float) -> float:
    """A relative error in float64, where it is no more than `rtol`, or than the region itself rounds.

    Raises:
        VerificationError: RK901 otherwise, also where it is no number; names the rules.
    """
    term = candidate.term
    if error <= max(rtol, term.rounding):
        return error
    rules = ", ".join(sorted(term.rules))
    text = f"{candidate.target.where}: relative error {error:.3g} in float64, allowed {rtol:g}; rules: {rules}"
    raise VerificationError("RK901", text)
