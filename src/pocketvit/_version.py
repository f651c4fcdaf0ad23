"""The version, in one place: packaging, checkpoints and exported files read it here."""

__version__ = "0.1.0"
