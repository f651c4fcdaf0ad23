"""pocketvit: from labelled images to a verified vision transformer that runs in your pocket."""

from pocketvit._version import __version__

__all__ = ["__version__"]
