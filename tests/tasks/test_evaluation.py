import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pocketvit.data.splits import MemorySplit
from pocketvit.tasks import ClassificationTask, evaluate
from pocketvit.tasks.evaluation import torch_predictor

CLASSES = ("low", "middle", "high")
TRUE = [0, 0, 1, 1, 2, 2, 2]
CALLED = [0, 1, 1, 2, 2, 0, 2]
SURE = [5.0, 3.0, 5.0, 9.0, 5.0, 1.0, 5.0]


def split_of(sizes):
    contents = []
    for size in sizes:
        buffer = io.BytesIO()
        Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(buffer, format="PNG")
        contents.append(buffer.getvalue())
    return MemorySplit([f"image-{i}" for i in range(len(sizes))], contents, TRUE)


@pytest.fixture
def batches():
    images = torch.arange(7.0).view(7, 1, 1, 1)
    return [(images[at], torch.tensor(TRUE)[at], torch.arange(7)[at]) for at in (slice(0, 4), slice(4, 7))]


def predict(images):
    logits = torch.zeros(len(images), 3)
    for row, i in zip(logits, images.flatten().long().tolist(), strict=True):
        row[CALLED[i]] = SURE[i]
    return logits


def test_evaluation_json_is_complete(batches):
    result = evaluate(
        predict, batches, ClassificationTask(classes=CLASSES), split=split_of([(8, 8)] * 6 + [(500, 300)])
    )
    content = result.to_dict()
    assert list(content) == [
        "split", "n", "loss", "top1", "interval", "per_class", "confusion", "mistakes",
    ]  # fmt: skip
    assert content["split"] == "val"
    assert content["n"] == 7
    assert content["top1"]["value"] == pytest.approx(4 / 7, abs=1e-6)
    assert content["confusion"] == [[1, 1, 0], [0, 1, 1], [1, 0, 2]]
    assert content["per_class"][2] == {"name": "high", "n": 3, "recall": 0.666667, "precision": 0.666667}
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_mistakes_are_the_most_confident_first_with_their_pictures(batches):
    result = evaluate(
        predict,
        batches,
        ClassificationTask(classes=CLASSES),
        split=split_of([(8, 8)] * 5 + [(500, 300), (8, 8)]),
    )
    rows = [(m.key, m.true, m.predicted) for m in result.mistakes]
    assert rows == [
        ("image-3", "middle", "high"),
        ("image-1", "low", "middle"),
        ("image-5", "high", "low"),
    ]
    assert result.mistakes[0].confidence == pytest.approx(torch.tensor([0.0, 0, 9]).softmax(0)[2].item())
    for mistake in result.mistakes:
        prefix, _, encoded = mistake.image.partition(",")
        assert prefix == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
            assert picture.size == ((96, 160) if mistake.key == "image-5" else (80, 80))


def test_at_most_so_many_mistakes(batches):
    task = ClassificationTask(classes=CLASSES)
    result = evaluate(predict, batches, task, split=split_of([(8, 8)] * 7), max_mistakes=1)
    assert [m.key for m in result.mistakes] == ["image-3"]


def test_top5_appears_from_six_classes_on():
    split = MemorySplit(["a"], [b""], [5])
    loader = [(torch.zeros(1, 3, 4, 4), torch.tensor([5]), torch.tensor([0]))]
    task = ClassificationTask(classes=tuple("abcdef"))
    result = evaluate(lambda images: torch.tensor([[0, 1, 2, 3, 4, 5.0]]), loader, task, split=split)
    assert result.to_dict()["top5"]["value"] == 1.0
    assert result.mistakes == ()


def test_torch_predictor_evaluates_without_gradients():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(48, 2)).train()
    predict = torch_predictor(net, torch.device("cpu"), memory_format=torch.channels_last)
    images = torch.randn(5, 3, 4, 4)
    assert torch.equal(predict(images), predict(images))
    assert not net.training
    assert not predict(images).requires_grad
