"""Print the JSON Schema of recipes: ``python -m reparamkit.recipe > recipes/schema.json``."""

from __future__ import annotations

import json

from reparamkit.recipe import recipe_schema

print(json.dumps(recipe_schema(), indent=2))
