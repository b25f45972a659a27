"""What can go wrong, as values (`Refusal`) and as exceptions (`ReparamError` and its family).

A refusal says why one merge was not made; the model is left as it was there and the rest goes on.
An exception says that the call as a whole cannot be carried out; nothing has been changed.
Both carry a code (`RK312`) whose title stands in `CODES`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

CODES: dict[str, str] = {
    # RK1xx: life cycle of the model
    "RK101": "model is in training mode",
    "RK102": "model has uninitialised (lazy) parameters",
    "RK103": "a merged block was called with arguments it was not merged for",
    "RK104": "input is not usable",
    "RK110": "model cannot be copied",
    "RK111": "nothing was kept to undo",
    "RK112": "plan was made for another model",
    "RK113": "optimizer holds parameters that are gone",
    # RK2xx: normalisation
    "RK201": "batch norm has no running statistics",
    "RK202": "batch norm is called with training statistics",
    "RK203": "rank of the input is not known",
    "RK204": "size of the input is not known",
    "RK205": "normalisation depends on the data",
    "RK210": "batch norm statistics are not usable",
    # RK3xx: graph, sharing, geometry
    "RK301": "module or value is shared",
    "RK304": "region crosses module boundaries",
    "RK305": "intermediate value is used elsewhere",
    "RK306": "a hook observes the value",
    "RK307": "runs under another context",
    "RK308": "weight is parametrized",
    "RK309": "in-place operation on a shared value",
    "RK310": "shapes differ or broadcast",
    "RK311": "channel counts differ",
    "RK312": "padding_mode differs",
    "RK313": "stride differs",
    "RK314": "dilation differs",
    "RK315": "groups differ",
    "RK316": "border would change",
    "RK317": "output sizes differ",
    "RK318": "branches do not start from one value",
    "RK319": "operators cannot be combined",
    "RK320": "pooling is not a convolution",
    "RK321": "no layer beside the norm takes it",
    "RK322": "scaled by zero",
    "RK330": "subclass with its own forward",
    "RK331": "operation is not affine or not known",
    "RK340": "the deploy form would cost more",
    "RK341": "branches cannot keep what the layer computes",
    "RK342": "branches cannot be trained through one kernel",
    "RK350": "input may be negative",
    # RK5xx: numbers, dtype, device
    "RK501": "merged weight overflows its dtype",
    "RK502": "weight is not finite",
    "RK503": "weight has a dtype or tensor type that cannot be folded",
    "RK505": "weight has no data (meta device)",
    "RK506": "weights are on different devices",
    "RK507": "weight is sharded",
    # RK6xx: tracing and input types
    "RK601": "model is a TorchScript module",
    "RK602": "model is an exported program",
    "RK603": "argument is not an nn.Module",
    "RK604": "forward cannot be traced",
    "RK605": "model is wrapped for distributed training",
    "RK606": "model is nested too deeply",
    "RK610": "module was measured and is no operator",
    "RK611": "measuring the module would take too long",
    "RK612": "module cannot be measured",
    # RK7xx: recipes
    "RK701": "recipe is not valid YAML",
    "RK702": "unknown key",
    "RK703": "duplicate key",
    "RK704": "value has the wrong type",
    "RK705": "recipe not found",
    "RK706": "recipe matches nothing",
    "RK707": "expectation of the recipe is not met",
    "RK708": "recipe feature is not allowed",
    "RK709": "unknown rule, policy, operation or plugin",
    "RK710": "branch does not collapse",
    # RK8xx: plugins and rules
    "RK801": "rule is switched off",
    "RK802": "plugin could not be loaded",
    "RK803": "plugins claim the same target",
    "RK804": "rule failed",
    "RK805": "not a name for a plugin",
    # RK9xx: verification, files and what is named on the command line
    "RK901": "verification failed",
    "RK902": "region cannot be run alone",
    "RK903": "comparison cannot judge",
    "RK910": "checkpoint cannot be read",
    "RK911": "checkpoint does not fit the model",
    "RK912": "file cannot be written",
    "RK913": "model cannot be stored",
    "RK920": "model source is not usable",
    "RK921": "optional package is missing",
    "RK922": "exported form is not usable",
}


@dataclass(frozen=True)
class Refusal:
    """Why a merge was not made.

    Attributes:
        code: key of `CODES`.
        reason: what differs, with names and numbers.
        where: module path (and node) of the refused value; empty until the stage that knows fills it in.

    Raises:
        ValueError: there is no such code, or the reason is no text.
    """

    code: str
    reason: str
    where: str = ""

    def __post_init__(self) -> None:
        if self.code not in CODES or not isinstance(self.reason, str):
            raise ValueError(f"expected a code of CODES and a text, got {self.code!r} and {self.reason!r}")

    def at(self, where: str) -> Refusal:
        """The same refusal with its place, unless it already has one."""
        return self if self.where else replace(self, where=where)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.code} {CODES[self.code]}: {self.reason}"


class ReparamError(Exception):
    """Base of every exception reparamkit raises on purpose."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(f"{code} {CODES[code]}: {message}")


class ModelError(ReparamError):
    """The model cannot be converted as it is (training mode, meta weights, TorchScript, ...)."""


class RecipeError(ReparamError):
    """The recipe is wrong, or does not fit the model."""


class PluginError(ReparamError):
    """A plugin or a rule is declared wrong."""


class VerificationError(ReparamError):
    """A rewritten region does not compute what the original did; nothing was changed."""


class CheckpointError(ReparamError):
    """A checkpoint cannot be read, does not fit the model or cannot be stored."""


class OutputError(ReparamError):
    """A file cannot be written; an existing one is as it was."""


class MissingExtraError(ReparamError):
    """A feature needs a package that is not installed; the message says which extra brings it."""


class ExportError(ReparamError):
    """The model cannot be exported; no file was written."""
