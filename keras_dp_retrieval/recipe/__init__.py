"""fit_recipe: a good model in one line, chosen from the data."""

from keras_dp_retrieval.recipe.fit import fit_recipe
from keras_dp_retrieval.recipe.hyperparameters import Recipe
from keras_dp_retrieval.recipe.plan import RecipePlan, plan_recipe
from keras_dp_retrieval.recipe.recipe_model import build_model
from keras_dp_retrieval.recipe.shape import choose_recipe

__all__ = [
    "Recipe",
    "RecipePlan",
    "build_model",
    "choose_recipe",
    "fit_recipe",
    "plan_recipe",
]
