"""Recipes: what to convert, as data. `load_recipe` reads one from a name, a file, YAML text or a mapping.

`python -m reparamkit.recipe` prints the JSON Schema that is kept in `recipes/schema.json`.
"""

from __future__ import annotations

from reparamkit.recipe.load import load_recipe
from reparamkit.recipe.lookup import shipped_recipes
from reparamkit.recipe.model import Block, Expand, Expect, LayerMatch, Match, Recipe, VerifySpec, recipe_schema

__all__ = [
    "Block",
    "Expand",
    "Expect",
    "LayerMatch",
    "Match",
    "Recipe",
    "VerifySpec",
    "load_recipe",
    "recipe_schema",
    "shipped_recipes",
]
