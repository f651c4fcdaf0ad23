import pytest
import torch

from pocketvit.backbones import create_model, get_entry, list_models
from pocketvit.backbones.complexity import measure_complexity

# name: input size, parameters, multiply-accumulates in millions (counted on timm's and the official code)
PUBLISHED = {
    "mobilevit_xxs": (256, 1_272_024, 407.36),
    "mobilevit_xs": (256, 2_317_848, 1025.91),
    "mobilevit_s": (256, 5_578_632, 2000.83),
    "mobilevitv2_050": (256, 1_370_593, 464.59),
    "mobilevitv2_050_384": (384, 1_370_593, 1045.02),
    "mobilevitv2_075": (256, 2_866_009, 1027.98),
    "mobilevitv2_075_384": (384, 2_866_009, 2312.48),
    "mobilevitv2_100": (256, 4_901_841, 1812.09),
    "mobilevitv2_100_384": (384, 4_901_841, 4076.56),
    "mobilevitv2_125": (256, 7_478_089, 2816.93),
    "mobilevitv2_125_384": (384, 7_478_089, 6337.29),
    "mobilevitv2_150": (256, 10_594_753, 4042.49),
    "mobilevitv2_150_384": (384, 10_594_753, 9094.64),
    "mobilevitv2_175": (256, 14_251_833, 5488.77),
    "mobilevitv2_175_384": (384, 14_251_833, 12348.62),
    "mobilevitv2_200": (256, 18_449_329, 7155.79),
    "mobilevitv2_200_384": (384, 18_449_329, 16099.24),
    "mobilevitv2_150_in22k_ft_in1k": (256, 10_594_753, 4042.49),
    "mobilevitv2_150_in22k_ft_in1k_384": (384, 10_594_753, 9094.64),
    "mobilevitv2_175_in22k_ft_in1k": (256, 14_251_833, 5488.77),
    "mobilevitv2_175_in22k_ft_in1k_384": (384, 14_251_833, 12348.62),
    "mobilevitv2_200_in22k_ft_in1k": (256, 18_449_329, 7155.79),
    "mobilevitv2_200_in22k_ft_in1k_384": (384, 18_449_329, 16099.24),
    "swiftformer_xs": (224, 3_475_360, 602.43),
    "swiftformer_s": (224, 6_092_128, 984.6),
    "swiftformer_l1": (224, 12_057_920, 1595.99),
    "swiftformer_l3": (224, 28_494_736, 4008.37),
    "cas_vit_xs": (224, 2_979_700, 546.78),
    "cas_vit_xs_384": (384, 2_979_700, 1605.84),
    "cas_vit_s": (224, 5_507_224, 911.99),
    "cas_vit_s_384": (384, 5_507_224, 2678.43),
    "cas_vit_m": (224, 12_036_520, 1859.1),
    "cas_vit_m_384": (384, 12_036_520, 5460.0),
    "cas_vit_t": (224, 21_250_120, 3556.92),
    "cas_vit_t_384": (384, 21_250_120, 10447.11),
    "mobile_former_26m": (224, 3_232_788, 23.55),
    "mobile_former_52m": (224, 3_469_092, 49.29),
    "mobile_former_96m": (224, 4_585_252, 92.02),
    "mobile_former_151m": (224, 7_595_828, 146.25),
    "mobile_former_214m": (224, 9_425_920, 208.37),
    "mobile_former_294m": (224, 11_422_648, 286.73),
    "mobile_former_508m": (224, 13_976_976, 498.47),
    "efficientformer_l1": (224, 12_289_928, 1291.28),
    "efficientformer_l3": (224, 31_406_000, 3906.57),
    "efficientformer_l7": (224, 82_229_328, 10119.33),
    "efficientformerv2_s0": (224, 3_600_256, 395.89),
    "efficientformerv2_s1": (224, 6_185_560, 651.97),
    "efficientformerv2_s2": (224, 12_710_112, 1246.86),
    "efficientformerv2_l": (224, 26_322_288, 2552.55),
    "mobilenetv3_large_100": (224, 5_483_032, 216.59),
    "deit_tiny_patch16_224": (224, 5_717_416, 1253.68),
    "deit_tiny_distilled_patch16_224": (224, 5_910_800, 1261.0),
}


def on_meta(name):
    with torch.device("meta"):
        return get_entry(name).build(1000, 3)


def test_the_table_has_every_registered_model():
    assert sorted(PUBLISHED) == sorted(list_models())


@pytest.mark.parametrize("name", PUBLISHED)
def test_equals_the_reference_count(name):
    size, params, macs = PUBLISHED[name]
    measured = measure_complexity(on_meta(name), size)
    assert measured.params == params
    assert measured.macs / 1e6 == pytest.approx(macs, abs=0.0051)
    assert get_entry(name).preprocessing.size == size


def test_counts_timm_models_too():
    measured = measure_complexity(on_meta("timm/mobilevitv2_050"), 256)
    assert measured.params == 1_370_593
    assert measured.macs / 1e6 == pytest.approx(464.59, abs=0.0051)


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050", "swiftformer_xs", "cas_vit_xs"])
def test_real_weights_and_meta_weights_count_the_same(name):
    assert measure_complexity(create_model(name), 64) == measure_complexity(on_meta(name), 64)


def test_leaves_the_network_as_it_was():
    model = create_model("mobilevitv2_050", num_classes=3).train()
    model.stem.eval()
    before = {name: module.training for name, module in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    measure_complexity(model, 64)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(m.collapse_key for m in model.modules() if hasattr(m, "collapse_key"))


def test_input_channels_are_counted():
    grey, colour = (create_model("cas_vit_xs", in_chans=c) for c in (1, 3))
    fewer = measure_complexity(colour, 64).macs - measure_complexity(grey, 64, in_chans=1).macs
    assert fewer == 2 * 9 * 24 * 32 * 32


def test_the_network_computes_as_before(randomise):
    model = randomise(create_model("cas_vit_xs", num_classes=3)).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        measure_complexity(model, 64)
        assert torch.equal(model(images), before)


def test_layers_with_a_forward_of_their_own_are_run():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 8, 1))
    model[1].forward = lambda x: x[:, :4]
    assert measure_complexity(model, 2).macs == 4 * (3 * 8 + 4 * 8)
    assert model[1].forward(torch.zeros(1, 8)).shape == (1, 4)
