"""From a decoded image to a network's input: exactly reproducible for evaluation, random for training.

A transform has two halves. `prepare` is deterministic and ends in 8-bit pixels, so that its result can be
kept in memory; `finish` is cheap or random and runs every time. Whether it was kept changes nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torchvision.transforms import InterpolationMode, v2

from pocketvit.core.config import Config

if TYPE_CHECKING:
    from pocketvit.backbones.preprocessing import Preprocessing

__all__ = [
    "Augmentation",
    "EvalTransform",
    "TrainTransform",
    "Transform",
    "eval_transform",
    "train_transform",
]

_LONGEST = 16  # ratio of sides beyond which the ends of a strip are cut off before it is resized

Share = Annotated[float, Field(gt=0, le=1)]


class Transform(Protocol):
    """What the loader applies to each image."""

    at_least: int | None
    """Pixels of the short side that `prepare` needs; more may be skipped while decoding. None: needs all."""

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """The deterministic half: an RGB image to uint8 pixels (3, h, w)."""
        ...

    def finish(self, pixels: torch.Tensor) -> torch.Tensor:
        """The other half: the network's input (3, S, S), float32; `pixels` stay as they are."""
        ...


class Augmentation(Config):
    """How training images are varied."""

    geometry: Literal["crop", "shift"] = "crop"
    """`crop`: a random part of the image, resized to the input. `shift`: the whole image, moved, turned and
    scaled a little, for images where every part matters, such as digits."""
    crop_scale: tuple[Share, Share] = (0.35, 1.0)
    """Smallest and largest share of the image's area in a random crop."""
    flip: bool = True
    """Mirror half of the images left to right; wrong for text, digits and anything with a handedness."""
    policy: Literal["none", "trivial", "randaugment"] = "trivial"
    """Random colours and shapes: TrivialAugment (arXiv:2103.10158) or RandAugment (arXiv:1909.13719)."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Strength of RandAugment, 0 to 30; TrivialAugment draws its own."""
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest relative change of brightness, contrast and saturation."""
    erase: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Probability that a random rectangle is blanked (arXiv:1708.04896)."""
    working_size: Annotated[float, Field(ge=1)] = 1.5
    """Larger images are shrunk to this many times the input size, on the short side, before anything else."""

    @classmethod
    def gentle(cls) -> Augmentation:
        """For tiny or handed images such as digits: small shifts and turns only."""
        return cls(geometry="shift", flip=False, policy="none", erase=0.0)

    @classmethod
    def none(cls) -> Augmentation:
        """The whole image every time, only mirrored."""
        return cls(crop_scale=(1.0, 1.0), policy="none", erase=0.0)


class EvalTransform:
    """Resize, crop the centre, scale to [0, 1], normalise: a function of `pre` alone.

    The resize is Pillow's, which antialiases; smaller images are enlarged by the same rule.
    """

    at_least: int | None = None

    def __init__(self, pre: Preprocessing) -> None:
        self.pre = pre
        self._normalise = _Normalise(pre)
        self._geometry = v2.Compose([_resize(pre, pre.short_side), v2.CenterCrop(pre.size)])

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """The resized and cropped image: uint8 (3, S, S)."""
        whole = self.pre.crop_mode == "squash"
        return _pixels(self._geometry(image if whole else _without_far_ends(image)))

    def finish(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised float32 of the same shape (..., 3, S, S)."""
        return self._normalise(pixels)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """The network's input (3, S, S), float32."""
        return self.finish(self.prepare(image))

    def describe(self) -> str:
        """The pipeline in one printable line."""
        return self.pre.describe()


class TrainTransform:
    """Shrink, vary as `augmentation` says, normalise. All randomness is torch's."""

    def __init__(self, pre: Preprocessing, augmentation: Augmentation) -> None:
        self.pre = pre
        self.augmentation = augmentation
        self.at_least: int | None = math.ceil(pre.size * augmentation.working_size)
        self._vary = v2.Compose(_variations(pre, augmentation))
        self._normalise = _Normalise(pre)
        self._erase = v2.RandomErasing(augmentation.erase) if augmentation.erase else None

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """The image with its short side at most `at_least` pixels: uint8 (3, h, w)."""
        image = _without_far_ends(image)
        assert self.at_least is not None
        factor = self.at_least / min(image.size)
        if factor < 1:
            size = (round(image.width * factor), round(image.height * factor))
            image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        return _pixels(image)

    def finish(self, pixels: torch.Tensor) -> torch.Tensor:
        """A random variation, normalised: float32 (3, S, S)."""
        varied = self._normalise(self._vary(pixels))
        return varied if self._erase is None else self._erase(varied)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """The network's input (3, S, S), float32."""
        return self.finish(self.prepare(image))

    def describe(self) -> str:
        """The pipeline in one printable line."""
        a, pre = self.augmentation, self.pre
        low, high = a.crop_scale
        steps = [
            f"decode {pre.channels}",
            f"shrink short side to {self.at_least}",
            f"random resized crop {pre.size} of {low:g} to {high:g} of the area {pre.interpolation}"
            if a.geometry == "crop"
            else f"{pre.describe_resize(pre.size)} | random shift, turn and scale",
            "flip 0.5" if a.flip else "",
            {"none": "", "trivial": "TrivialAugment", "randaugment": f"RandAugment 2 x {a.magnitude}"}[
                a.policy
            ],
            f"colour jitter {a.jitter:g}" if a.jitter else "",
            pre.describe_values(),
            f"erase {a.erase:g}" if a.erase else "",
        ]
        return " | ".join(step for step in steps if step)


def eval_transform(pre: Preprocessing) -> EvalTransform:
    """The transform for evaluation, prediction and calibration of a model with preprocessing `pre`."""
    return EvalTransform(pre)


def train_transform(pre: Preprocessing, augmentation: Augmentation) -> TrainTransform:
    """The transform for training a model with preprocessing `pre`."""
    return TrainTransform(pre, augmentation)


class _Normalise:
    """uint8 RGB (..., 3, S, S) to (x / 255 - mean) / std, in the channel order of the network."""

    def __init__(self, pre: Preprocessing) -> None:
        self._scale = (1 / (255 * torch.tensor(pre.std, dtype=torch.float64))).float().view(3, 1, 1)
        shift = torch.tensor(pre.mean, dtype=torch.float64) / torch.tensor(pre.std, dtype=torch.float64)
        self._shift = shift.float().view(3, 1, 1)
        self._flip = pre.channels == "bgr"

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        ordered = pixels.flip(-3) if self._flip else pixels
        return (ordered * self._scale - self._shift).contiguous()


def _resize(pre: Preprocessing, side: int) -> v2.Resize:
    """Of the short side to `side` pixels, or of both where images are squashed."""
    size = [side, side] if pre.crop_mode == "squash" else side
    return v2.Resize(size, interpolation=InterpolationMode(pre.interpolation), antialias=True)


def _variations(pre: Preprocessing, a: Augmentation) -> list[v2.Transform]:
    mode = InterpolationMode(pre.interpolation)
    steps: list[v2.Transform] = []
    if a.geometry == "crop":
        steps.append(v2.RandomResizedCrop(pre.size, scale=a.crop_scale, interpolation=mode, antialias=True))
    else:
        steps += [
            _resize(pre, pre.size),
            v2.CenterCrop(pre.size),
            v2.Pad(pre.size // 4, padding_mode="edge"),  # so that what moves in is more of the border
            v2.RandomAffine(
                (-10, 10),
                translate=(1 / 15, 1 / 15),
                scale=(0.9, 1.1),
                interpolation=InterpolationMode.BILINEAR,
            ),
            v2.CenterCrop(pre.size),
        ]
    if a.flip:
        steps.append(v2.RandomHorizontalFlip())
    if a.policy == "trivial":
        steps.append(v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR))
    elif a.policy == "randaugment":
        steps.append(v2.RandAugment(magnitude=a.magnitude, interpolation=InterpolationMode.BILINEAR))
    if a.jitter:
        steps.append(v2.ColorJitter(brightness=a.jitter, contrast=a.jitter, saturation=a.jitter))
    return steps


def _pixels(image: Image.Image) -> torch.Tensor:
    """uint8 (3, H, W), stored row by row with the channels last as in the image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _without_far_ends(image: Image.Image) -> Image.Image:
    """The middle of a very long strip, which would take gigabytes once its short side is enlarged.

    A centre crop shows none of what is cut off.
    """
    short = min(image.size)
    width, height = (min(side, short * _LONGEST) for side in image.size)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
