"""What happened in a run, in a few sentences: did it work, what did it take, what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from winnow.errors import number_of
from winnow.reporting.evaluation_line import accuracy_of
from winnow.reporting.page.view import Measure, Row, View, graded

Tone = Literal["good", "bad", "plain", "warn"]


@dataclass(frozen=True)
class Sentence:
    """One sentence, and whether it is good news."""

    tone: Tone
    text: str


def verdict(view: View) -> list[Sentence]:
    """What a person asks first, in that order."""
    made = [_state(view), _outcome(view), _work(view), _signal(view), _cut_off(view), _errors(view)]
    if graded(view):
        made.insert(1, _rewards(view))
    made += _alarms(view.alarms)
    if view.damaged:
        files = ", ".join(view.damaged[:3])
        what = number_of(len(view.damaged), "file")
        made.append(Sentence("bad", f"{what} cannot be read and is not shown: {files}."))
    return [one for one in made if one is not None]


def _state(view: View) -> Sentence | None:
    status = view.progress.get("status")
    step, steps = view.progress.get("step"), view.progress.get("steps")
    at = f" at step {step} of {steps}" if step is not None and steps else ""
    if status == "running":
        return Sentence("plain", f"It is running{at}.")
    if status == "cut short":
        return Sentence(
            "warn", f"It was cut short{at}, by a kill or a power cut; it can be resumed."
        )
    if status in ("stopped", "failed"):
        why = f": {view.progress['error']}" if view.progress.get("error") else ""
        return Sentence("warn" if status == "stopped" else "bad", f"It {status}{at}{why}.")
    return None


def _outcome(view: View) -> Sentence | None:
    before, after, gain = view.before, view.after, view.gain
    if view.kind == "samples":
        return None
    if after is None or after.get("accuracy") is None:
        if view.kind == "run" and view.progress.get("status") == "done":
            return Sentence(
                "warn", "No held-out prompts were scored, so what it learned is unknown."
            )
        return None
    if before is None or before is after or before.get("accuracy") is None:
        of = number_of(after["prompts"], "prompt")
        return Sentence("plain", f"Held-out accuracy is {accuracy_of(after)} on {of}.")
    text = f"held-out accuracy went from {accuracy_of(before)} to {accuracy_of(after)}"
    if gain is None:
        return Sentence("plain", f"{text[:1].upper()}{text[1:]}.")
    tone, judged = _judged(gain)
    if graded(view):  # the mean reward is judged
        tone, judged = "plain", "Right by reward.right_at"
    bounds = ""
    if gain.low is not None and gain.high is not None:
        bounds = f" [{_points(gain.low)}, {_points(gain.high)}]"
    chosen = (
        "" if view.tested else "; the checkpoint was chosen by these prompts, so it is too high"
    )
    points = f"{_points(gain.value)} points{bounds}"
    return Sentence(tone, f"{judged}: {text}, {points} {_on(after, view.left_out)}{chosen}.")


def _rewards(view: View) -> Sentence | None:
    """The mean reward, where accuracy does not say it."""
    before, after, gain = view.before, view.after, view.reward_gain
    if before is None or after is None or before is after:
        return None
    if before.get("reward") is None or after.get("reward") is None:
        return None
    text = f"held-out mean reward went from {before['reward']:.3f} to {after['reward']:.3f}"
    if gain is None:
        return Sentence("plain", f"{text[:1].upper()}{text[1:]}.")
    tone, judged = _judged(gain)
    bounds = ""
    if gain.low is not None and gain.high is not None:
        bounds = f" [{gain.low:+.3f}, {gain.high:+.3f}]"
    on = _on(after, view.left_out)
    return Sentence(tone, f"{judged}: {text}, {gain.value:+.3f}{bounds} {on}.")


def _on(after: Row, left_out: int) -> str:
    """Which prompts a gain is of: where some are left out it is not the difference of the two."""
    both = " that have a score both times" if left_out else ""
    return f"on the same {number_of(after['prompts'] - left_out, 'prompt')}{both}"


def _judged(gain: Measure) -> tuple[Tone, str]:
    if gain.low is not None and gain.low > 0:
        return "good", "It learned"
    if gain.high is not None and gain.high < 0:
        return "bad", "It got worse"
    return "plain", "No clear change"


def _work(view: View) -> Sentence | None:
    rows = view.metrics
    if not rows:
        return None
    sampled, trained = _sum(rows, "tokens_sampled"), _sum(rows, "tokens_trained")
    if not any(row.get("updates") for row in rows):
        what = "Nothing was trained: no step had an update, so the model is the one it began with."
        return Sentence("warn", what)
    text = f"{number_of(len(rows), 'step')} in {time_of(view)}"
    text += f": {_sum(rows, 'samples'):,} samples to train on"
    text += f", {sampled:,} tokens sampled and {trained:,} trained on"
    return Sentence("plain", f"{text}{f' ({trained / sampled:.0%})' if sampled else ''}.")


def _signal(view: View) -> Sentence | None:
    rows = [row for row in view.metrics if row.get("prompts")]
    if not rows:
        return None
    first, last = _kinds(rows[0]), _kinds(rows[-1])
    when = f"{first} in the first step, {last} in the last" if len(rows) > 1 else first
    return Sentence("plain", f"Prompts all wrong / mixed / all right: {when}.")


def _kinds(row: Row) -> str:
    return f"{row['prompts_all_wrong']} / {row['prompts_mixed']} / {row['prompts_all_right']}"


def _cut_off(view: View) -> Sentence | None:
    if any(row.get("name") == "cut_off" for row in view.alarms):
        return None  # told there
    rows = view.metrics[-max(1, len(view.metrics) // 4) :]
    shares = [row["cut_off_rate"] for row in rows if row.get("cut_off_rate") is not None]
    if not shares or (share := sum(shares) / len(shares)) < 0.25:
        return None
    return Sentence(
        "warn",
        f"Late in the run {share:.0%} of the completions were cut off at sampling.max_tokens: "
        "raise it, or stop them earlier with sampling.stop.",
    )


def _errors(view: View) -> Sentence | None:
    rows = view.metrics or view.evaluations
    errors, samples = _sum(rows, "errors"), _sum(rows, "samples")
    if not errors:
        return None
    return Sentence(
        "bad", f"The verifier failed on {errors:,} of {samples:,} samples: see Errors below."
    )


def _alarms(rows: Sequence[Row]) -> list[Sentence]:
    """What was raised, in order; of what has cleared again, when, and no advice.

    Of an alarm that came several times the last is told, and how often it came.
    """
    last: dict[object, Row] = {}
    over: dict[object, object] = {}
    times: Counter[object] = Counter()
    for row in rows:
        name = row.get("name", row.get("text"))
        if row.get("cleared"):
            over[name] = row.get("step")
            continue
        last[name] = row
        times[name] += 1
        over.pop(name, None)
    return [_alarm(row, over.get(name), times[name]) for name, row in last.items()]


def _alarm(row: Row, over: object, times: int) -> Sentence:
    often = f", the last of {times}" if times > 1 else ""
    at, text = f"at step {row.get('step')}{often}", row.get("text", "")
    if over is not None:
        return Sentence("warn", f"Alarm {at}, cleared at step {over}: {text}")
    advice = f" {row['advice']}" if row.get("advice") else ""
    return Sentence("bad", f"Alarm {at}: {text}{advice}")


def _sum(rows: Sequence[Row], key: str) -> int:
    return int(sum(row.get(key) or 0 for row in rows))


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def time_of(view: View) -> str:
    """How long its steps took."""
    return duration(sum(sum(row.get("seconds", {}).values()) for row in view.metrics))


def duration(seconds: float) -> str:
    """`2 h 5 min`, `3 min 20 s`, `12 s`."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def sentences(view: View) -> list[dict[str, Any]]:
    """The verdict as the page reads it."""
    return [{"tone": one.tone, "text": one.text} for one in verdict(view)]
