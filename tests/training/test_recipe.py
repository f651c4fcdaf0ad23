from dataclasses import dataclass

import pytest
import yaml

from pocketvit.core.errors import ConfigError, UnknownNameError
from pocketvit.training import Recipe, choose_recipe, list_recipes, load_recipe
from pocketvit.training.recipe import _folder


def test_the_shipped_recipes_are_listed():
    assert list_recipes() == ["cifar10", "default", "digits"]


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_loads_and_says_command_cost_and_result(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    text = (_folder() / f"{name}.yaml").read_text()
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert text.startswith(header[0])
    for part in ("command:", "cost:", "expect:"):
        lines = [line for line in header if part in line]
        assert lines, f"{name}.yaml does not say {part}"
        assert "TBD" not in lines[0]
    assert set(yaml.safe_load(text)) <= set(Recipe.model_fields) - {"name", "seed"}


def test_digits_are_never_mirrored():
    augmentation = load_recipe("digits").augmentation
    assert not augmentation.flip
    assert augmentation.policy == "none"


def test_overrides_replace_settings_and_reach_inside_groups():
    recipe = load_recipe("digits", {"lr": 0.5, "augmentation.jitter": 0.3, "seed": 4})
    assert recipe.lr == 0.5
    assert recipe.seed == 4
    assert recipe.augmentation.jitter == 0.3
    assert recipe.augmentation.geometry == load_recipe("digits").augmentation.geometry
    same = load_recipe("digits", {"lr": 0.5, "augmentation": {"jitter": 0.3}, "seed": 4})
    assert same == recipe


def test_a_recipe_from_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 2\naugmentation:\n  flip: false\n")
    recipe = load_recipe(path)
    assert (recipe.name, recipe.epochs, recipe.augmentation.flip) == ("mine", 2, False)
    assert recipe.lr == Recipe().lr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "Did you mean epochs"),
        ({"labelsmoothing": 0.1}, "Did you mean label_smoothing"),
        ({"augmentation.flp": True}, r"augmentation\.flp"),
        ({"lr": -1}, "greater than 0"),
        ({"precision": "int8"}, "precision"),
        ({"lr.high": 3}, "lr"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("default", settings)


def test_an_unknown_recipe_suggests_one():
    with pytest.raises(UnknownNameError, match="Did you mean digits"):
        load_recipe("digit")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"Cannot read .*none\.yaml"):
        load_recipe(tmp_path / "none.yaml")


@dataclass
class Named:
    name: str


@pytest.mark.parametrize(
    ("name", "recipe"), [("digits", "digits"), ("CIFAR10", "cifar10"), ("photos", "default")]
)
def test_the_data_chooses_the_recipe_and_says_why(name, recipe):
    chosen, reason = choose_recipe(Named(name))
    assert chosen == recipe
    assert reason
