"""Recipes: typed settings, validated once, and their YAML. May import errors and output."""

from concepts_cli.recipe.loading import (
    BUILT_IN,
    FOR_PHOTOGRAPHS,
    choose_recipe,
    find_recipe,
    load_recipe,
    recipe_of,
    shipped_recipes,
)
from concepts_cli.recipe.schema import (
    MAX_SEED,
    METRICS,
    ConceptSettings,
    DataSettings,
    EvaluateSettings,
    Method,
    Metric,
    Recipe,
    RegularizerSettings,
    SampleSettings,
    Schedule,
    Tracker,
    TrainSettings,
    WeightSettings,
)
from concepts_cli.recipe.writing import dump_recipe

__all__ = [
    "BUILT_IN",
    "FOR_PHOTOGRAPHS",
    "MAX_SEED",
    "METRICS",
    "ConceptSettings",
    "DataSettings",
    "EvaluateSettings",
    "Method",
    "Metric",
    "Recipe",
    "RegularizerSettings",
    "SampleSettings",
    "Schedule",
    "Tracker",
    "TrainSettings",
    "WeightSettings",
    "choose_recipe",
    "dump_recipe",
    "find_recipe",
    "load_recipe",
    "recipe_of",
    "shipped_recipes",
]
