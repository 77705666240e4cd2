"""`recipes`: the shipped recipes, and what each is."""

from concepts_cli.commands.recipes import recipes
from concepts_cli.recipe import load_recipe


def test_every_shipped_recipe_says_what_it_is_and_where(monkeypatch):
    monkeypatch.setenv("UCD_DATA", "data")
    found = {recipe.name: recipe for recipe in recipes()}
    assert load_recipe("quickstart").model == "mini" and "25 small pictures" in found["quickstart"].about
    for name, recipe in found.items():
        assert recipe.about.endswith(".") and "#" not in recipe.about and load_recipe(recipe.path) == load_recipe(name)
