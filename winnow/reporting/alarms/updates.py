"""Rules about updates: none, skipped, of one prompt, too long a step, off-policy. Pure."""

from __future__ import annotations

from statistics import median

from winnow.reporting.alarms.history import LATEST, History, mean, numbers
from winnow.reporting.alarms.reading import Reading, State, above, below
from winnow.reporting.alarms.signal import learned

_FAIR = 4.0
"""How often its even share one prompt's must be."""
_SEVERAL = 5
"""Steps, or those of a shorter window, that an average over steps is of at least."""
_OUTSTANDING = 3.0
"""How far above all earlier ones a gradient is that is more than the noise of a small one."""
_TWO = 2
_NEARLY = 0.85
"""Right samples of the window from where on it is no wonder that few prompts are left to learn."""


def nothing_kept(history: History, threshold: float) -> Reading | None:
    """Steps in a row without an update, but for want of anything left to learn."""
    count = history.idle["steps"]
    facts = {
        "samples": str(history.idle["samples"]),
        "survivors": str(history.idle["survivors"]),
        "trained": str(history.idle["samples_trained"]),
    }
    if count == 0 or learned(history):
        return Reading(float(count), "well", facts)
    state: State = "alarming" if count >= threshold else "between"
    return Reading(float(count), state, facts, "none" if facts["survivors"] == "0" else "")


def one_prompt(history: History, threshold: float) -> Reading | None:
    """Mean over the window of the largest share that a prompt has in a step's updates."""
    rows = [row for row in history.rows() if row.get("largest_prompt_share") is not None]
    if len(rows) < min(_SEVERAL, history.window):
        return None
    prompts = min(row["prompts"] for row in rows)
    value = sum(row["largest_prompt_share"] for row in rows) / len(rows)
    if prompts < _FAIR:
        return None
    bound = max(threshold, min(1.0, _FAIR / prompts))
    facts = {"prompts": str(prompts), "steps": str(len(rows))}
    nearly = (mean(history.values("right_rate")) or 0.0) >= _NEARLY
    state = "well" if learned(history) else above(value, bound, if_=not nearly)
    return Reading(value, state, facts)


def updates_skipped(history: History, threshold: float) -> Reading | None:
    """Share of the window's updates that were skipped."""
    skipped = sum(row.get("updates_skipped") or 0 for row in history.rows())
    made = sum(row.get("updates") or 0 for row in history.rows())
    if skipped + made == 0:
        return None
    value = skipped / (skipped + made)
    facts = {"skipped": str(skipped), "all": str(skipped + made)}
    return Reading(value, above(value, threshold, if_=skipped >= _TWO), facts)


def grad_norm(history: History, threshold: float) -> Reading | None:
    """The gradient's norm relative to the median of the window before it, in times."""
    now = history.values("grad_norm", 1)
    earlier = numbers(list(history.recent)[:-1], "grad_norm")
    window = earlier[-history.window :]
    if not now or len(window) < min(_SEVERAL, history.window) or median(window) <= 0:
        return None
    value = now[0] / median(window)
    facts = {"now": f"{now[0]:.3g}", "median": f"{median(window):.3g}"}
    # Late in a run a rare sample may stand out among small gradients, and be small itself.
    begun = [row for row in history.first if row is not history.recent[-1]]
    outstanding = now[0] >= _OUTSTANDING * max(earlier + numbers(begun, "grad_norm"))
    return Reading(value, above(value, threshold, if_=outstanding), facts)


def ratio(history: History, threshold: float) -> Reading | None:
    """Distance of `ratio_mean` from 1, median of the latest steps."""
    values = history.values("ratio_mean", LATEST)
    if len(values) < _TWO:
        return None
    value = median(abs(each - 1) for each in values)
    clipped = mean(history.values("clip_fraction", LATEST))
    facts = {
        "ratio": f"{median(values):.2f}",
        "clipped": "" if clipped is None else f", and {clipped:.0%} of the tokens are clipped",
    }
    return Reading(value, above(value, threshold), facts)


def ess(history: History, threshold: float) -> Reading | None:
    """Effective sample size over n, mean of the latest steps; it must not fall to the threshold."""
    values = history.values("ess", LATEST)
    if len(values) < _TWO:
        return None
    value = sum(values) / len(values)
    weight = history.values("weight_mean", LATEST)
    facts = {"weight": f"; the mean weight is {weight[-1]:.3g}" if weight else ""}
    return Reading(value, below(value, threshold), facts)


def kl_to_sampling_policy(history: History, threshold: float) -> Reading | None:
    """KL from the policy that sampled, nats a token, median of the latest steps."""
    values = history.values("kl_to_sampling_policy", LATEST)
    if len(values) < _TWO:
        return None
    value = median(values)
    return Reading(value, above(value, threshold))


def sampler_disagrees(history: History, threshold: float) -> Reading | None:
    """`logprob_gap`, nats a token, median of the latest steps."""
    values = history.values("logprob_gap", LATEST)
    if not values:
        return None
    value = median(values)
    return Reading(value, above(value, threshold))
