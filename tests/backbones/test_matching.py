import torch

from pocketvit.backbones.matching import match_tensors


def tensors(**shapes):
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def test_all_fits():
    match = match_tensors(tensors(a=1, b=(2, 3)), tensors(b=(2, 3), a=1))
    assert match.fits
    assert match.matched == match.total == 2
    assert match.describe() == "2 of 2 tensors match"


def test_what_does_not_fit_is_listed_with_the_nearest_names():
    own = tensors(weight=1, bias=1, scale=(2, 2), zzz=1)
    match = match_tensors(own, tensors(wieght=1, bias=1, scale=(2, 3)))
    assert not match.fits
    assert (match.matched, match.missing, match.unexpected) == (1, ["weight", "zzz"], ["wieght"])
    assert match.describe() == (
        "1 of 4 tensors match; missing: weight (nearest: wieght), zzz; unexpected: wieght (nearest: weight); "
        "of another shape: scale (2, 3) for (2, 2)"
    )


def test_only_the_first_few_are_named():
    match = match_tensors(tensors(**{f"t{i}": 1 for i in range(9)}), {})
    assert match.describe() == "0 of 9 tensors match; missing: t0, t1, t2 and 6 more"


def test_tolerated_names_may_lack():
    own = tensors(weight=1, head=1)
    match = match_tensors(own, tensors(weight=1), tolerated=["head", "weight"])
    assert match.fits
    assert (match.matched, match.missing, match.tolerated) == (1, ["head"], ["head"])
    assert match.describe() == "1 of 2 tensors match"
