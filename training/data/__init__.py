"""Folders of images -> batches of tensors, the same for every number of workers and after every resumption."""

from training.data.batches import Batches, open_batches
from training.data.datasets import DATASET_MODES, Dataset, check, make_dataset, open_dataset
from training.data.images import ImageFolder, list_images
from training.data.transforms import PREPROCESS_MODES, Transform

__all__ = [
    "DATASET_MODES",
    "PREPROCESS_MODES",
    "Batches",
    "Dataset",
    "ImageFolder",
    "Transform",
    "check",
    "list_images",
    "make_dataset",
    "open_batches",
    "open_dataset",
]
