"""What a recipe may say: the typed form of the YAML, and which modules a block matches.

The models are strict (the text "1" is no number) and closed (an unknown key is an error). A recipe
names classes, rules and policies; it never imports anything, so a downloaded one cannot run code.
"""

from __future__ import annotations

import keyword
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from reparamkit.recipe.pattern import MAX_PATTERN, check_pattern, class_fits, fits, original_class

if TYPE_CHECKING:
    from reparamkit.expand.layer import Layer

RULE_ID = r"^[a-z0-9_*-]+(/[a-z0-9_*-]+)?$"
POLICY_ID = r"^[a-z0-9_-]+(/[a-z0-9_-]+)?$"
MAX_STARS = 3  # each multiplies the work by the length of a name
IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_]*$"


def _check_version(value: object) -> object:
    # `Literal[1]` compares with ==, so True and 1.0 would pass.
    if type(value) is not int:
        raise ValueError("expected the number 1")
    return value


def _check_into(value: str) -> str:
    if keyword.iskeyword(value):
        raise ValueError("expected an attribute name, not a Python keyword")
    return value


def _check_names(value: dict[str, str]) -> dict[str, str]:
    for ours, theirs in value.items():
        if not ours or not theirs or ours.count("*") != theirs.count("*") or ours.count("*") > MAX_STARS:
            raise ValueError(f"expected two names with the same number of stars, at most {MAX_STARS}")
        if max(len(ours), len(theirs)) > MAX_PATTERN:
            raise ValueError(f"expected at most {MAX_PATTERN} characters")
    return value


RuleId = Annotated[str, Field(pattern=RULE_ID)]
Pattern = Annotated[str, AfterValidator(check_pattern)]
Version = Annotated[Literal[1], BeforeValidator(_check_version, json_schema_input_type=Literal[1])]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_by_name=True, validate_by_alias=True)


class Match(_Model):
    """Which modules a block is about; all the keys that are given must match."""

    class_: Pattern | None = Field(
        default=None,
        # Not `alias`: type checkers would then insist on the keyword `class` in calls.
        validation_alias="class",
        serialization_alias="class",
        description="Glob on the bare class name, or on module.qualname if it has a dot;"
        " 're:' starts a regular expression on either.",
    )
    name: Pattern | None = Field(
        default=None,
        description="Glob on the module path, as in 'stages.*.0'; 're:' is a regular expression.",
    )
    structure: Literal["any"] | None = Field(default=None, description="'any' is every module.")

    @model_validator(mode="after")
    def _says_something(self) -> Match:
        if self.class_ is None and self.name is None and self.structure is None:
            raise ValueError("expected at least one of 'class', 'name' and 'structure'")
        return self

    def matches(self, path: str, module: object) -> bool:
        """Whether the module found under this path is meant."""
        if self.class_ is not None and not class_fits(self.class_, original_class(module)):
            return False
        return self.name is None or fits(self.name, path)


class Expect(_Model):
    """How much may be left of a matched block, at most."""

    convs: int | None = Field(default=None, ge=0, description="Convolutions left, at most.")
    batch_norms: int | None = Field(default=None, ge=0, description="Batch norms left, at most.")


class Block(_Model):
    """One kind of block and what is to be done with it."""

    match: Match
    rules: Annotated[tuple[RuleId, ...], Field(strict=False, min_length=1)] | None = Field(
        default=None,
        description="Rules that may be used inside the block: 'conv_bn' is 'core/conv_bn', globs as"
        " in 'core/*' are allowed. Left out: every rule.",
    )
    into: Annotated[str, Field(pattern=IDENTIFIER), AfterValidator(_check_into)] | None = Field(
        default=None,
        description="Attribute that holds the merged operator, as in the upstream deploy form.",
    )
    expect: Expect | None = Field(default=None, description="It is an error if a matched block keeps more than this.")
    optional: bool = Field(default=False, description="It is no error if nothing matches.")

    def rule_ids(self) -> tuple[str, ...] | None:
        """The rules with their plugin, as in `core/conv_bn`; None if every rule may be used."""
        return None if self.rules is None else _full_ids(self.rules)


PerAxis = int | Annotated[tuple[int, ...], Field(strict=False)]


class LayerMatch(_Model):
    """Which plain layers get branches; all the keys that are given must match."""

    type: Literal["conv", "conv1d", "conv2d", "conv3d", "linear"] = Field(
        default="conv", description="'conv' is a convolution of any rank."
    )
    kernel_size: PerAxis | None = Field(default=None, description="One number for every axis, or one an axis.")
    stride: PerAxis | None = Field(default=None, description="Likewise.")
    dilation: PerAxis | None = Field(default=None, description="Likewise.")
    groups: Annotated[int, Field(ge=1)] | Literal["depthwise"] | None = Field(
        default=None, description="A number, or 'depthwise': every channel is a group of its own."
    )
    name: Pattern | None = Field(
        default=None, description="Glob on the module path, as in 'layer*.conv1'; 're:' is a regular expression."
    )

    def axes(self) -> tuple[int, ...]:
        """Numbers of spatial axes of the layers meant."""
        return {"conv": (2, 1, 3), "linear": (0,)}.get(self.type) or (int(self.type[4]),)

    def fits(self, path: str, layer: Layer) -> bool:
        """Whether the layer found under this path is meant."""
        if layer.nd not in self.axes() or (self.name is not None and not fits(self.name, path)):
            return False
        if self.groups is not None and self.groups not in (layer.groups, "depthwise" if layer.depthwise else None):
            return False
        wanted = ((self.kernel_size, layer.kernel_size), (self.stride, layer.stride), (self.dilation, layer.dilation))
        return all(w is None or (w if isinstance(w, tuple) else (w,) * layer.nd) == got for w, got in wanted)

    def __str__(self) -> str:
        given = self.model_dump(exclude_none=True)
        return ", ".join(f"{key}: {value}" for key, value in given.items())


_STEP_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "object"}]}
_BRANCHES_SCHEMA = {
    "type": "array",
    "minItems": 1,
    "items": {
        "anyOf": [
            {"type": "array", "minItems": 1, "items": _STEP_SCHEMA},
            {
                "type": "object",
                "properties": {
                    "steps": {"type": "array", "minItems": 1, "items": _STEP_SCHEMA},
                    "name": {"type": "string"},
                    "train": {"type": "boolean"},
                    "repeat": {"type": "integer", "minimum": 1},
                },
                "patternProperties": {"^x[1-9][0-9]*$": {"type": "array", "minItems": 1}},
                "additionalProperties": False,
            },
        ]
    },
}


class Expand(_Model):
    """What one kind of plain layer becomes for training."""

    match: LayerMatch
    branches: Annotated[tuple[Any, ...], Field(strict=False, min_length=1), WithJsonSchema(_BRANCHES_SCHEMA)] = Field(
        description="Branches that are added; each a list of operations ('reparamkit branches' lists them)."
    )
    init: Literal["keep", "scratch"] = Field(
        default="keep", description="'keep' computes what the layer did; 'scratch' starts from initial numbers."
    )
    optional: bool = Field(default=False, description="It is no error if nothing matches.")

    def __hash__(self) -> int:  # branches are lists and mappings, as they were written
        return hash((self.match, len(self.branches), self.init, self.optional))


class VerifySpec(_Model):
    """How each edit is proved."""

    enabled: bool = Field(default=True, description="Prove each edit before it is made.")
    dtype: Literal["float64"] = Field(default="float64", description="Number type of the proof.")
    rtol: float = Field(default=1e-9, gt=0, le=1e-3, description="Relative error allowed.")


class Recipe(_Model):
    """What is to be merged in a model, and what a plain model is to be expanded to."""

    version: Version = Field(description="Version of the recipe format.")
    name: str = Field(min_length=1, max_length=100, description="Name of the recipe in reports.")
    source: str | None = Field(default=None, description="The paper, or where it comes from.")
    description: str | None = Field(default=None, description="One or two sentences for people.")
    extends: str | None = Field(
        default=None,
        description="A shipped recipe, or a file below this recipe's folder. What is said here"
        " wins, blocks come first, 'disable' adds up.",
    )
    blocks: Annotated[tuple[Block, ...], Field(strict=False)] = Field(
        default=(), description="Which modules; the first block that matches a module has it."
    )
    expand: Annotated[tuple[Expand, ...], Field(strict=False)] = Field(
        default=(), description="What plain layers become for training; the first section that matches one has it."
    )
    disable: Annotated[tuple[RuleId, ...], Field(strict=False)] = Field(
        default=(), description="Rules that are switched off, as ids or globs."
    )
    deploy_names: Annotated[dict[str, str], AfterValidator(_check_names)] = Field(
        default={},
        description="Keys of the upstream deploy checkpoint where they differ: our form -> theirs, as in"
        " '*.c.*': '*.*'; each star stands for the same text in both.",
    )
    policy: str = Field(default="cheaper", pattern=POLICY_ID, description="Which of the exact merges are made.")
    verify: VerifySpec = Field(default=VerifySpec(), description="How each edit is proved.")

    @model_validator(mode="after")
    def _does_something(self) -> Recipe:
        if not (self.blocks or self.expand or self.extends):
            raise ValueError("expected 'blocks' or 'expand', got neither")
        return self

    def __hash__(self) -> int:
        return hash((self.name, self.blocks, self.expand, self.disable, self.policy, self.verify))

    def disabled_ids(self) -> tuple[str, ...]:
        """The rules that are switched off, with their plugin."""
        return _full_ids(self.disable)


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors: the part that draft 7 and later drafts share."""
    schema = Recipe.model_json_schema(by_alias=True)
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema}


def _full_ids(ids: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(one if "/" in one else f"core/{one}" for one in ids)
