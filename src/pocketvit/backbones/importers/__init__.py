"""Official checkpoints into this library's form: one file a code base, and what they share."""

from pocketvit.backbones.importers.checkpoint import ImportReport, import_checkpoint

__all__ = ["ImportReport", "import_checkpoint"]
