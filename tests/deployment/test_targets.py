from __future__ import annotations

import pytest

from pocketvit.core.errors import ConfigError, UnknownNameError
from pocketvit.deployment import TARGETS, check_target


def test_every_row_of_the_table_is_allowed() -> None:
    for name, target in TARGETS.items():
        for precision in target.precisions:
            assert check_target(name, precision) is target


def test_unknown_target_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean onnx"):
        check_target("onx")


def test_unknown_target_lists_all_when_nothing_is_near() -> None:
    with pytest.raises(UnknownNameError, match="There is: onnx"):
        check_target("coreml")


def test_missing_precision_says_what_is_possible() -> None:
    with pytest.raises(ConfigError, match=r"(?s)'int8'.*Possible with onnx: float32.*pocketvit quantize"):
        check_target("onnx", "int8")
