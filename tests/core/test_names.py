import pytest

from pocketvit.core.errors import UnknownNameError
from pocketvit.core.names import nearest, unknown_name

MODELS = ["mobilevit_xxs", "mobilevitv2_050", "swiftformer_xs"]


@pytest.mark.parametrize(
    ("typed", "first"), [("mobilvit_xxs", "mobilevit_xxs"), ("SwiftFormer-XS", "swiftformer_xs")]
)
def test_nearest_finds_the_intended_name(typed, first):
    assert nearest(typed, MODELS)[0] == first


def test_unknown_name_suggests_or_points_somewhere():
    assert "Did you mean mobilevit_xxs" in str(unknown_name("model", "mobilvit_xxs", MODELS))
    error = unknown_name("model", "zzz", MODELS, see="pocketvit models lists them.")
    assert isinstance(error, UnknownNameError)
    assert error.fix == "pocketvit models lists them."
