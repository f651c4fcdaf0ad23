"""Labelled images: from files on disk to batches."""

from pocketvit.data.sources import open_images
from pocketvit.data.splits import ImageData, ImageSplit, Problem

__all__ = ["ImageData", "ImageSplit", "Problem", "open_images"]
