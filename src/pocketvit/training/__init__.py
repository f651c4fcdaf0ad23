"""Training: recipes, the loop, checkpoints."""

from pocketvit.training.checkpoints import load_model, load_weights, save_weights
from pocketvit.training.loop import TrainingResult, train
from pocketvit.training.recipe import Recipe, choose_recipe, list_recipes, load_recipe

__all__ = [
    "Recipe",
    "TrainingResult",
    "choose_recipe",
    "list_recipes",
    "load_model",
    "load_recipe",
    "load_weights",
    "save_weights",
    "train",
]
