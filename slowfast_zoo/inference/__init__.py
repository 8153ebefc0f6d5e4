"""Predictions out: classifying videos, detecting actions, evaluating datasets, and showing the results."""

from .classifier import VideoClassifier
from .confusion import save_confusion_plot
from .detector import ActionDetector, Detections, KeyFrame
from .evaluate import Evaluation, evaluate
from .explain import Explanation, VideoExplanation, explain, explain_video
from .explain_plot import save_explanation
from .plot import check_plot_path, save_prediction_plot
from .render import render_video
from .render_boxes import render_detections
from .results import ClipPrediction, Features, Prediction, Timeline, describe_views
from .timeline_plot import save_timeline_plot

__all__ = [
    "ActionDetector",
    "ClipPrediction",
    "Detections",
    "Evaluation",
    "Explanation",
    "Features",
    "KeyFrame",
    "Prediction",
    "Timeline",
    "VideoClassifier",
    "VideoExplanation",
    "check_plot_path",
    "describe_views",
    "evaluate",
    "explain",
    "explain_video",
    "render_detections",
    "render_video",
    "save_confusion_plot",
    "save_explanation",
    "save_prediction_plot",
    "save_timeline_plot",
]
