import pytest

from pocketvit.backbones import BuildOptions, create_model
from pocketvit.backbones.complexity import measure_complexity
from pocketvit.core.errors import BudgetError, ConfigError, UnknownNameError
from pocketvit.scaling import Budget, budget, choose_model
from pocketvit.scaling.budget import RESOLUTIONS, architectures, warranted_resolution


def test_each_architecture_is_a_candidate_once():
    names = architectures()
    families = ("mobilevit_xxs", "mobilevitv2_050", "swiftformer_l3", "cas_vit_t", "efficientformer_l1")
    assert set(families) <= set(names)
    assert not [name for name in names if name.endswith("_384") or "in22k" in name]


def test_candidates_take_every_resolution_and_are_of_families_we_would_choose():
    others = ("efficientformerv2", "deit", "mobilenet", "mobile_former")
    assert not [name for name in architectures() if name.startswith(others)]


@pytest.mark.parametrize(("typical", "size"), [(8, 64), (64, 64), (65, 96), (200, 224), (4000, 256)])
def test_resolution_never_throws_pixels_away_below_the_top(typical, size):
    assert warranted_resolution(typical) == size


@pytest.fixture(scope="module")
def choice():
    return choose_model(num_classes=10, typical_size=8, budget=Budget(macs=30_000_000))


def test_the_largest_that_fits_is_taken_and_really_costs_that(choice):
    fitting = [candidate for candidate in choice.candidates if candidate.fits]
    assert choice.macs == max(candidate.macs for candidate in fitting) <= 30_000_000
    assert all(candidate.macs > 30_000_000 for candidate in choice.candidates if not candidate.fits)
    real = measure_complexity(create_model(choice.name, num_classes=10), choice.resolution)
    assert (real.macs, real.params) == (choice.macs, choice.params)


def test_every_candidate_says_why(choice):
    assert len(choice.candidates) == len(architectures())
    assert [candidate.note for candidate in choice.candidates if candidate.chosen] == ["chosen"]
    assert all(candidate.note for candidate in choice.candidates)
    assert choice.reason.endswith(".")


def test_sharp_images_get_the_highest_resolution_at_which_something_fits(monkeypatch):
    monkeypatch.setattr(budget, "architectures", lambda: ["mobilevit_xxs", "swiftformer_s", "cas_vit_xs"])
    choice = choose_model(num_classes=10, typical_size=100, budget=Budget(macs=70_000_000))
    sizes = [candidate.resolution for candidate in choice.candidates]
    assert choice.resolution == min(sizes) < max(sizes) == 128
    sharper = [candidate for candidate in choice.candidates if candidate.resolution > choice.resolution]
    assert not any(candidate.fits for candidate in sharper)


def test_parameters_can_be_the_limit():
    choice = choose_model(num_classes=10, typical_size=8, budget=Budget(params=1_000_000))
    assert choice.name == "mobilevit_xxs"
    assert choice.params <= 1_000_000


def test_a_model_that_was_asked_for_is_only_counted():
    choice = choose_model(
        num_classes=3, typical_size=300, budget=Budget(), model="mobilenetv3_small_050", resolution=96
    )
    assert (choice.name, choice.resolution, len(choice.candidates)) == ("mobilenetv3_small_050", 96, 1)


def test_a_model_of_one_size_is_counted_there_and_refused_elsewhere():
    asked = {"num_classes": 3, "typical_size": 30, "budget": Budget(), "model": "deit_tiny_patch16_224"}
    assert choose_model(**asked).resolution == choose_model(**asked, resolution=224).resolution == 224
    with pytest.raises(ConfigError, match="deit_tiny_patch16_224 takes images of 224 px only, not 96"):
        choose_model(**asked, resolution=96)


def test_nothing_fits_names_the_nearest():
    with pytest.raises(BudgetError, match=r"fits 1 M MACs: the nearest .* is \w+ at 64 px") as caught:
        choose_model(num_classes=10, typical_size=8, budget=Budget(macs=1_000_000))
    assert caught.value.exit_code == 3
    assert "efficientformerv2_*, mobile_former_* are only taken by name" in caught.value.fix
    with pytest.raises(BudgetError) as caught:
        choose_model(num_classes=10, typical_size=8, budget=Budget(macs=1), model="mobilevit_xxs")
    assert "by name" not in caught.value.fix


def test_unknown_model_gets_a_suggestion():
    with pytest.raises(UnknownNameError, match="Did you mean swiftformer_xs"):
        choose_model(num_classes=10, typical_size=8, budget=Budget(), model="swiftfomer_xs")


def test_resolutions_suit_every_stride():
    assert all(size % 32 == 0 for size in RESOLUTIONS)


def test_a_model_with_options_is_counted_with_them():
    asked = {"num_classes": 10, "typical_size": 64, "budget": Budget(), "model": "mobilevit_xxs"}
    plain, dense = choose_model(**asked), choose_model(**asked, options=BuildOptions(output_stride=8))
    assert dense.params == plain.params
    assert dense.macs > 2 * plain.macs


@pytest.mark.parametrize("model", [None, "deit_tiny_patch16_224"])
def test_options_need_a_model_that_has_them(model):
    options = BuildOptions(output_stride=8)
    with pytest.raises(ConfigError, match=r"Options of which model|output stride of 8"):
        choose_model(num_classes=10, typical_size=64, budget=Budget(), model=model, options=options)
