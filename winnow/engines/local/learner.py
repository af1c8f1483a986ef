"""The learner of this process."""

from __future__ import annotations

from winnow.engines.learning.learner import AdamLearner


class LocalLearner(AdamLearner):
    """AdamW on a module that is whole in this process."""
