"""What a model's file says about itself, so that whoever holds only the file can use it correctly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pocketvit._version import __version__
from pocketvit.backbones import BuildOptions, Preprocessing
from pocketvit.backbones.options import DEFAULTS
from pocketvit.core.errors import CheckpointError, ConfigError

__all__ = ["ModelCard"]

_JSON_KEYS = ("classes", "preprocessing", "options")

_FLOAT = "float32"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A model's name, its classes, how its input is prepared, and under which terms it may be used.

    Attributes:
        name: the architecture's registered name.
        classes: their names, in the order of the logits.
        preprocessing: from an image file to the input tensor.
        code_licence: of the architecture's code.
        weights_licence: of the weights in the file.
        source: paper and repository of the architecture.
        training_data: fingerprint of the data it was trained on; empty when unknown.
        accuracy: top-1 on the validation images, a fraction; `None` when not measured.
        precision: numbers that the file computes with: `float32`, `int8`, or as
            `QuantizationSpec.precision` says.
        task: what the logits mean.
        options: how the architecture was built where that is not the default.
    """

    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    code_licence: str
    weights_licence: str
    source: str
    training_data: str = ""
    accuracy: float | None = None
    precision: str = _FLOAT
    task: str = "classification"
    options: BuildOptions = DEFAULTS

    def to_dict(self) -> dict[str, Any]:
        """The card as plain values for JSON; `from_dict` reads them back."""
        values: dict[str, Any] = {
            "model": self.name,
            "task": self.task,
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_dict(),
            "code_licence": self.code_licence,
            "weights_licence": self.weights_licence,
            "source": self.source,
        }
        if self.training_data:
            values["training_data"] = self.training_data
        if self.accuracy is not None:
            values["accuracy"] = self.accuracy
        if self.precision != _FLOAT:
            values["precision"] = self.precision
        if options := self.options.to_dict():
            values["options"] = options
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str) -> ModelCard:
        """What `to_dict` wrote.

        Args:
            where: the file it was in, for the message.

        Raises:
            CheckpointError: this is not what `to_dict` writes.
        """
        try:
            return cls(
                name=values["model"],
                classes=tuple(values["classes"]),
                preprocessing=Preprocessing.from_dict(values["preprocessing"]),
                code_licence=values["code_licence"],
                weights_licence=values["weights_licence"],
                source=values["source"],
                training_data=values.get("training_data", ""),
                accuracy=float(values["accuracy"]) if "accuracy" in values else None,
                precision=values.get("precision", _FLOAT),
                task=values["task"],
                options=BuildOptions.from_dict(values.get("options", {})),
            )
        except ConfigError as error:
            raise CheckpointError(
                f"{where} is of a network that this version cannot build: {error.message}",
                fix="Upgrade pocketvit.",
            ) from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{where} was not written by pocketvit: it does not say how to use the model ({error!r}).",
                fix="Write the file with `pocketvit export`, or use the model.onnx of a run directory.",
            ) from error

    def to_metadata(self) -> dict[str, str]:
        """The card as the text key-value pairs of an exported file, with what a person may want to read."""
        size = self.preprocessing.size
        values = self.to_dict()
        return {
            **{key: _text(key, value) for key, value in values.items()},
            "pocketvit_version": __version__,
            "pipeline": self.preprocessing.describe(),
            "input": f"image: float32 (batch, 3, {size}, {size}), channels {self.preprocessing.channels}, "
            "prepared by the pipeline",
            "output": f"logits: float32 (batch, {len(self.classes)}), softmax gives probabilities",
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], *, where: str) -> ModelCard:
        """The card in a file's key-value pairs; arguments and errors as `from_dict`."""
        try:
            values = readable(metadata)
        except ValueError as error:
            raise CheckpointError(f"{where} was not written by pocketvit: {error}.") from error
        return cls.from_dict(values, where=where)


def _text(key: str, value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if key in _JSON_KEYS else f"{value}"


def readable(metadata: Mapping[str, str]) -> dict[str, Any]:
    """A file's key-value pairs with the JSON among them parsed."""
    return {key: json.loads(text) if key in _JSON_KEYS else text for key, text in metadata.items()}
