"""fit_recipe: a good model in one line, chosen from the data."""

from keras_dp_retrieval.recipe.fit import build_model, fit_recipe
from keras_dp_retrieval.recipe.plan import RecipePlan, plan_recipe
from keras_dp_retrieval.recipe.shape import Recipe, choose_recipe

__all__ = [
    "Recipe",
    "RecipePlan",
    "build_model",
    "choose_recipe",
    "fit_recipe",
    "plan_recipe",
]
