"""Published weights: the manifest that lists them, where they are found, how they are read."""

from slowfast_zoo.models.record import WeightsRecord
from slowfast_zoo.models.saved import Folder, class_names, is_folder, read_folder, save_pretrained
from slowfast_zoo.storage.tensors import save_state_dict

from .checkpoint import convert_file, load_checkpoint
from .image import load_image_weights
from .manifest import default_record, records
from .reading import read_checkpoint
from .source import find_weights

__all__ = [
    "Folder",
    "WeightsRecord",
    "class_names",
    "convert_file",
    "default_record",
    "find_weights",
    "is_folder",
    "load_checkpoint",
    "load_image_weights",
    "read_checkpoint",
    "read_folder",
    "records",
    "save_pretrained",
    "save_state_dict",
]
