"""What several alarms advise."""

from __future__ import annotations

ANEW = "Begin again with an earlier checkpoint (model = its folder)."
MORE_ENTROPY = (
    "Try a lower optimizer.lr, an entropy bonus (algorithm.entropy = 0.001), a KL "
    "(algorithm.kl = 'in-loss(0.04)') or fewer passes (algorithm.epochs)."
)
LESS_ENTROPY = (
    "Try a lower optimizer.lr, no or a smaller algorithm.entropy, or a KL "
    "(algorithm.kl = 'in-loss(0.04)'). " + ANEW
)
LESS_OFF_POLICY = (
    "Try a lower optimizer.lr, a larger minibatch_prompts (fewer updates a step) or fewer passes "
    "(algorithm.epochs)."
)
