"""The former place of :mod:`slowfast_zoo.inference.draw.heat`."""

import warnings

from .draw.heat import save_explanation

__all__ = ["save_explanation"]

warnings.warn(
    "slowfast_zoo.inference.explain_plot is now slowfast_zoo.inference.draw.heat", DeprecationWarning, stacklevel=2
)
