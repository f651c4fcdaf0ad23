"""What a network is trained for: loss, decoding and metrics behind one interface."""

from pocketvit.tasks.card import ModelCard
from pocketvit.tasks.classification import Classification, ClassificationMetrics, ClassificationTask
from pocketvit.tasks.evaluation import Evaluation, evaluate
from pocketvit.tasks.task import Task

__all__ = [
    "Classification",
    "ClassificationMetrics",
    "ClassificationTask",
    "Evaluation",
    "ModelCard",
    "Task",
    "evaluate",
]
