import pytest

from pocketvit.backbones import get_entry, list_models
from pocketvit.core.errors import ConfigError, UnknownNameError


def test_wildcards_and_order():
    assert list_models("mobilevit_*") == ["mobilevit_s", "mobilevit_xs", "mobilevit_xxs"]
    assert list_models("mobilevitv2_[0-9][0-9][0-9]") == [
        f"mobilevitv2_{percent:03d}" for percent in (50, 75, 100, 125, 150, 175, 200)
    ]
    assert len(list_models()) == 52
    assert list_models("no_such_*") == []


@pytest.mark.parametrize(
    ("name", "size", "mean", "crop", "hub"),
    [
        ("mobilevit_s", 256, (0.0, 0.0, 0.0), 0.9, "mobilevit_s.cvnets_in1k"),
        ("mobilevitv2_050", 256, (0.0, 0.0, 0.0), 0.888, "mobilevitv2_050.cvnets_in1k"),
        ("mobilevitv2_050_384", 384, (0.0, 0.0, 0.0), 1.0, None),
        (
            "mobilevitv2_150_in22k_ft_in1k_384",
            384,
            (0.0, 0.0, 0.0),
            1.0,
            "mobilevitv2_150.cvnets_in22k_ft_in1k_384",
        ),
        ("mobilevitv2_060", 256, (0.0, 0.0, 0.0), 0.888, None),
        ("swiftformer_l1", 224, (0.485, 0.456, 0.406), 0.95, "swiftformer_l1.dist_in1k"),
        ("cas_vit_xs", 224, (0.485, 0.456, 0.406), 0.875, None),
        ("mobile_former_26m", 224, (0.485, 0.456, 0.406), 0.875, None),
        ("efficientformer_l1", 224, (0.485, 0.456, 0.406), 0.95, "efficientformer_l1.snap_dist_in1k"),
        ("efficientformerv2_l", 224, (0.485, 0.456, 0.406), 0.95, "efficientformerv2_l.snap_dist_in1k"),
        ("deit_tiny_patch16_224", 224, (0.485, 0.456, 0.406), 0.9, "deit_tiny_patch16_224.fb_in1k"),
        ("mobilenetv3_large_100", 224, (0.485, 0.456, 0.406), 0.875, "mobilenetv3_large_100.ra_in1k"),
    ],
)
def test_entries_carry_their_preprocessing_and_weights(name, size, mean, crop, hub):
    entry = get_entry(name)
    assert entry.name == name
    assert (entry.preprocessing.size, entry.preprocessing.mean, entry.preprocessing.crop) == (
        size,
        mean,
        crop,
    )
    assert entry.hub == hub


@pytest.mark.parametrize("name", list_models())
def test_preprocessing_agrees_with_timm_where_timm_has_the_weights(name):
    entry = get_entry(name)
    if entry.hub is None:
        assert entry.family in ("cas_vit", "mobile_former") or name.endswith("_384")
        return
    theirs = get_entry(f"timm/{entry.hub}").preprocessing
    assert entry.preprocessing == theirs


@pytest.mark.parametrize("name", list_models())
def test_licences_and_sources_are_stated(name):
    entry = get_entry(name)
    assert entry.code_licence in ("Apache-2.0", "Apache-2.0 (timm)")
    assert "arXiv" in entry.source
    assert ("not open source" in entry.weights_licence) == entry.family.startswith("mobilevit")


def test_models_of_one_size_say_so():
    fixed = {name for name in list_models() if not get_entry(name).any_size}
    assert fixed == {"deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"}


@pytest.mark.parametrize(
    ("name", "size", "mean", "interpolation"),
    [
        ("timm/mobilenetv3_large_100", 224, (0.485, 0.456, 0.406), "bicubic"),
        ("timm/mobilenetv3_large_100.miil_in21k_ft_in1k", 224, (0.0, 0.0, 0.0), "bilinear"),
        ("mobilenetv3_large_100.ra4_e3600_r224_in1k", 224, (0.5, 0.5, 0.5), "bicubic"),
    ],
)
def test_any_timm_name_is_an_entry(name, size, mean, interpolation):
    entry = get_entry(name)
    assert entry.family == "timm"
    assert entry.weights_licence == "apache-2.0"
    pre = entry.preprocessing
    assert (pre.size, pre.mean, pre.interpolation) == (size, mean, interpolation)
    assert entry.hub.startswith("mobilenetv3_large_100.")


@pytest.mark.parametrize(
    ("name", "crop", "crop_mode"),
    [
        ("mobilenetv3_large_100", 0.875, "center"),
        ("mobilevitv2_050_384", 1.0, "center"),
        ("cas_vit_xs", 0.875, "center"),
        ("cas_vit_xs_384", 1.0, "squash"),
        ("dm_nfnet_f0.dm_in1k", 0.9, "squash"),
    ],
)
def test_whether_images_are_cropped_or_squashed(name, crop, crop_mode):
    pre = get_entry(name).preprocessing
    assert (pre.crop, pre.crop_mode) == (crop, crop_mode)


def test_timm_models_that_want_a_border_are_refused():
    with pytest.raises(ConfigError, match="border"):
        get_entry("deepseek_vit_412m.deepseek_v4_flash_vision_exp")


def test_the_prefix_asks_for_timms_own_implementation():
    ours, theirs = get_entry("mobilevit_xxs").build(2, 3), get_entry("timm/mobilevit_xxs").build(2, 3)
    assert type(ours).__module__.startswith("pocketvit")
    assert type(theirs).__module__.startswith("timm")


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("mobilevit_sx", "mobilevit_xs"),
        ("swiftformer_x", "swiftformer_xs"),
        ("casvit_xs", "cas_vit_xs"),
        ("mobilenetv3_large", "mobilenetv3_large_100"),
        ("mobilevit_xs.cvnets_in2k", "mobilevit_xs.cvnets_in1k"),
        ("mobilevitv2_000", "mobilevitv2_100"),
    ],
)
def test_unknown_names_say_the_nearest(name, suggestion):
    with pytest.raises(UnknownNameError, match=suggestion):
        get_entry(name)


def test_a_name_like_nothing_says_where_to_look():
    with pytest.raises(UnknownNameError, match="pocketvit models"):
        get_entry("!")


def test_oblong_timm_models_are_refused():
    with pytest.raises(ConfigError, match="1024×768"):
        get_entry("vit_base_patch16_sapiens2")
