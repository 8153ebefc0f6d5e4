"""Published weights: the manifest that lists them, where they are found, how they are read."""

from .checkpoint import load_checkpoint, read_state_dict, save_state_dict
from .manifest import WeightsRecord, default_record, records
from .source import find_weights

__all__ = [
    "WeightsRecord",
    "default_record",
    "find_weights",
    "load_checkpoint",
    "read_state_dict",
    "records",
    "save_state_dict",
]
