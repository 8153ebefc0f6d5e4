"""Predictions out: classifying videos and showing the result."""

from .classifier import ClipPrediction, Prediction, VideoClassifier, describe_views
from .plot import check_plot_path, save_prediction_plot

__all__ = [
    "ClipPrediction",
    "Prediction",
    "VideoClassifier",
    "check_plot_path",
    "describe_views",
    "save_prediction_plot",
]
