"""Predictions out: classifying videos, detecting actions, evaluating datasets, and showing the results."""

from .classify.classifier import VideoClassifier
from .classify.results import ClipPrediction, Features, Prediction, Timeline, describe_views
from .detect.detector import ActionDetector, Detections, KeyFrame
from .draw.boxes import render_detections
from .draw.captions import render_video
from .draw.confusion import save_confusion_plot
from .draw.heat import save_explanation
from .draw.prediction import save_prediction_plot
from .draw.style import check_plot_path
from .draw.timeline import save_timeline_plot
from .evaluation.run import Evaluation, evaluate
from .explain import Explanation, VideoExplanation, explain, explain_video

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
