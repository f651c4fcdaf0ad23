from __future__ import annotations

import numpy as np
import pytest

from pocketvit.core.errors import CheckpointError
from pocketvit.deployment.openvino import has_openvino, open_compiled

pytestmark = pytest.mark.skipif(not has_openvino(), reason="OpenVINO is an extra that CI does not install")


@pytest.mark.parametrize("batch", [1, 3, None])
def test_the_number_of_images_is_fixed_where_it_is_known(exported, batch) -> None:
    compiled = open_compiled(exported.path, threads=1, batch=batch)
    (first, *rest) = compiled.input(0).partial_shape
    assert first.is_dynamic == (batch is None)
    assert [int(str(length)) for length in rest] == [3, 32, 32]
    images = np.random.default_rng(0).standard_normal((batch or 2, 3, 32, 32), np.float32)
    assert compiled([images])[0].shape == (batch or 2, 3)


def test_no_file_no_valid_file(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="There is no file"):
        open_compiled(tmp_path / "model.onnx", threads=1)
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="cannot be opened in OpenVINO"):
        open_compiled(tmp_path / "model.onnx", threads=1)
