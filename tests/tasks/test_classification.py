import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, top_k_accuracy_score

from pocketvit.tasks import Classification, ClassificationMetrics, ClassificationTask
from pocketvit.tasks.classification import wilson_interval


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5000), st.floats(0, 1))
def test_wilson_interval_is_scipys(n, share):
    k = round(n * share)
    expected = binomtest(k, n).proportion_ci(0.95, method="wilson")
    found = wilson_interval(k, n)
    assert found.value == k / n
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)


def test_wilson_interval_stays_inside_and_is_never_a_point():
    assert wilson_interval(5, 5).high == 1
    assert wilson_interval(5, 5).low < 0.6
    assert wilson_interval(0, 5).low == 0


@pytest.mark.parametrize("num_classes", [2, 5, 6, 11])
def test_metrics_are_scikit_learns(num_classes):
    generator = torch.Generator().manual_seed(num_classes)
    logits = torch.randn(203, num_classes, generator=generator, dtype=torch.float64).float()
    targets = torch.randint(num_classes - 1, (203,), generator=generator)  # the last class has no image
    metrics = ClassificationMetrics(num_classes=num_classes)
    for start in range(0, 203, 64):
        metrics.update(logits[start : start + 64], targets[start : start + 64])
    score = metrics.compute()

    called, labels = logits.argmax(1), list(range(num_classes))
    precision, recall, _, support = precision_recall_fscore_support(
        targets, called, labels=labels, zero_division=0
    )
    assert score.n == 203
    assert score.value == score.top1.value == pytest.approx((called == targets).double().mean().item())
    assert [list(row) for row in score.confusion] == confusion_matrix(targets, called, labels=labels).tolist()
    assert [c.recall for c in score.classes] == pytest.approx(recall.tolist())
    assert [c.precision for c in score.classes] == pytest.approx(precision.tolist())
    assert [c.n for c in score.classes] == support.tolist()
    brute = -sum(row.double().log_softmax(0)[t].item() for row, t in zip(logits, targets, strict=True)) / 203
    assert score.loss == pytest.approx(brute, rel=1e-6)
    if num_classes < 6:
        assert score.top5 is None
    else:
        assert score.top5 is not None
        assert score.top5.value == pytest.approx(top_k_accuracy_score(targets, logits, k=5, labels=labels))


def test_loss_with_indices_equals_loss_with_one_hot_rows():
    task = ClassificationTask(classes=("a", "b", "c"))
    logits, targets = torch.randn(7, 3), torch.randint(3, (7,))
    one_hot = torch.eye(3)[targets]
    brute = -(one_hot.double() * logits.double().log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(task.loss(logits, targets).double(), brute)
    torch.testing.assert_close(task.loss(logits, one_hot).double(), brute)


def test_loss_of_half_precision_logits_is_computed_in_float32():
    logits = torch.tensor([[60.0, 0.0, 0.0]], dtype=torch.float16)
    loss = ClassificationTask(classes=("a", "b", "c")).loss(logits, torch.tensor([1]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(60)


def test_decode_gives_one_ordered_result_per_image():
    results = ClassificationTask(classes=("cat", "dog", "owl")).decode(torch.tensor([[0.0, 2.0, 1.0]] * 2))
    assert len(results) == 2
    names, values = zip(*results[0].top(5), strict=True)
    assert names == ("dog", "owl", "cat")
    assert sum(values) == pytest.approx(1)
    assert values[0] == pytest.approx(math.exp(2) / (1 + math.e + math.exp(2)))
    assert results[0].top() == results[0].top(3)[:1]


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([0.5, 0.5, 0.0], r"shape \(2,\), got \(3,\)"),
        ([0.7, 0.7], "sum 1.4"),
        ([1.5, -0.5], "Not probabilities"),
        ([math.nan, 1.0], "Not probabilities"),
    ],
)
def test_a_result_that_is_no_distribution_is_refused(probabilities, message):
    with pytest.raises(ValueError, match=message):
        Classification(torch.tensor(probabilities), ("a", "b"))
