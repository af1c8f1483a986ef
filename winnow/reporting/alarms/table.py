"""Every alarm: its name, what it measures, from where on it is one, and what it says.

Causes come before what comes of them, as they are told in this order.

The name is also its setting in `[alarms]`, whose value is the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping

from winnow.reporting.alarms import held_out, sampled, signal, spread, updates
from winnow.reporting.alarms.advice import ANEW, LESS_ENTROPY, LESS_OFF_POLICY, MORE_ENTROPY
from winnow.reporting.alarms.rule import Rule, Says

WINDOW = 10
"""Default of `alarms.window`."""


ALARMS: Mapping[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "verifier_errors",
            "Share of samples that the verifier failed on.",
            ("errors", "samples"),
            "share",
            0.1,
            sampled.verifier_errors,
            {
                "": Says(
                    "the verifier failed on {errors} of {samples} samples ({value}).",
                    "They are in no mean reward and no update, so the rest is no fair selection.",
                    "winnow show --errors prints them: fix the verifier, or raise "
                    "reward.time_limit; a resumed run scores again what its last checkpoint has "
                    "not.",
                ),
            },
        ),
        Rule(
            "cut_off",
            "Share of samples cut off at sampling.max_tokens.",
            ("cut_off_rate", "samples", "right_rate"),
            "share",
            0.5,
            sampled.cut_off,
            {
                "": Says(
                    "{value} of {samples} samples were cut off at sampling.max_tokens.",
                    "What they would have answered is unknown, and they mostly score as wrong.",
                    "Raise sampling.max_tokens, or set sampling.stop to a text that ends a "
                    "completion; winnow show tells what they look like.",
                ),
            },
        ),
        Rule(
            "no_signal",
            "Share of prompts whose samples all have the same reward.",
            ("scores", "right_rate"),
            "share",
            0.9,
            signal.no_signal,
            {
                "wrong": Says(
                    "{tied} of {prompts} prompts have the same reward on all their samples: "
                    "{wrong} are all wrong, {right} all right.",
                    "Nothing tells one sample of such a prompt from another, so there is little or "
                    "nothing to learn from it.",
                    "Look at some with winnow show: is the verifier right, does the prompt say how "
                    "to answer? Then try easier prompts, more samples_per_prompt, a better model, "
                    "or algorithm.select = ['mixed'] with algorithm.refill, as dapo has.",
                ),
                "lost": Says(
                    "{tied} of {prompts} prompts have the same reward on all their samples: "
                    "{wrong} are all wrong, {right} all right. In the first step {before} of the "
                    "samples were right.",
                    "The policy can no longer do what it could: the updates have broken it.",
                    "Begin again from the start or an earlier checkpoint (model = its folder), "
                    "with a lower optimizer.lr; winnow show tells what it says instead.",
                ),
                "right": Says(
                    "{tied} of {prompts} prompts have the same reward on all their samples: "
                    "{right} are all right, as they were from the start.",
                    "The model can do this already: there is little to learn here.",
                    "Look at some with winnow show: does the verifier call everything right? Then "
                    "try harder prompts (winnow sample tells how hard they are), or a stricter "
                    "reward.right_at.",
                ),
            },
        ),
        Rule(
            "starving_prompts",
            "Share of prompts that never get a right sample while others do.",
            ("scores",),
            "share",
            0.25,
            signal.starving_prompts,
            {
                "": Says(
                    "{starving} of {prompts} prompts have had no right sample in any of their "
                    "visits, such as {named}.",
                    "They cost as much as the others and teach nothing.",
                    "Check that they can be answered rightly (winnow show); then leave them out of "
                    "prompts.source until the others are learned, or raise samples_per_prompt.",
                ),
                "label": Says(
                    "{starving} of {prompts} prompts get no right sample, all of difficulty "
                    "{labels} among them, such as {named}.",
                    "They cost as much as the others and teach nothing.",
                    "Check that they can be answered rightly (winnow show); then leave this "
                    "difficulty out of prompts.source until the others are learned, or raise "
                    "samples_per_prompt.",
                ),
            },
        ),
        Rule(
            "nothing_kept",
            "Steps in a row without an update.",
            ("updates", "updates_skipped", "samples", "survivors", "samples_trained"),
            "steps",
            3,
            updates.nothing_kept,
            {
                "": Says(
                    "no update in {value} steps in a row: of {samples} samples {survivors} "
                    "survived the selection and {trained} had an advantage.",
                    "The run costs time and changes nothing.",
                    "Samples of a prompt that all have the same reward have none: try easier or "
                    "harder prompts, more samples_per_prompt, or algorithm.select = ['mixed'] with "
                    "algorithm.refill, as dapo has.",
                ),
                "none": Says(
                    "no update in {value} steps in a row: of {samples} samples none survived the "
                    "selection.",
                    "The run costs time and changes nothing.",
                    "winnow show says why each sample was rejected. Try another algorithm.select, "
                    "easier prompts, more samples_per_prompt, or algorithm.refill.",
                ),
            },
        ),
        Rule(
            "one_prompt",
            "Largest share of a step's updates that one prompt has, mean.",
            ("largest_prompt_share", "prompts"),
            "share",
            0.5,
            updates.one_prompt,
            {
                "": Says(
                    "of {prompts} prompts a step a single one made {value} of the update, on "
                    "average over {steps} steps.",
                    "A step learns that prompt by heart rather than what they have in common.",
                    "Try other prompts or more samples_per_prompt, so that more of them count, a "
                    "larger prompts_per_step, or algorithm.denominator = 'group-means', by "
                    "which each prompt counts the same.",
                ),
            },
        ),
        Rule(
            "entropy_collapse",
            "Entropy relative to the run's start, while there is something to learn.",
            ("entropy", "right_rate", "reward_mean", "scores"),
            "share",
            0.1,
            spread.entropy_collapse,
            {
                "": Says(
                    "entropy is {value} of what it was in the first steps ({start} to {now} nats a "
                    "token), and nearly no prompt has different rewards, with {right} of the "
                    "samples right.",
                    "The policy says the same each time, so it cannot find what it does not know.",
                    f"{MORE_ENTROPY} {ANEW}",
                ),
                "slope": Says(
                    "entropy has fallen to {value} of what it was in the first steps ({start} to "
                    "{now} nats a token), and will be gone in {left} steps, while the reward does "
                    "not rise.",
                    "A policy that says the same each time cannot find what it does not know.",
                    MORE_ENTROPY,
                ),
            },
            falls=True,
        ),
        Rule(
            "entropy_explosion",
            "Entropy relative to the lower of the start's and the last steps'.",
            ("entropy", "reward_mean"),
            "times",
            3.0,
            spread.entropy_explosion,
            {
                "": Says(
                    "entropy is {value} what it was ({base} to {now} nats a token).",
                    "The policy comes apart: its samples get random.",
                    LESS_ENTROPY,
                ),
                "slope": Says(
                    "entropy has risen to {value} what it was ({base} to {now} nats a token) and "
                    "rises fast, while the reward does not.",
                    "The policy comes apart: its samples get random.",
                    LESS_ENTROPY,
                ),
            },
        ),
        Rule(
            "distinct_right",
            "distinct_right relative to the run's start.",
            ("distinct_right", "right_rate"),
            "share",
            0.5,
            spread.distinct_right,
            {
                "": Says(
                    "two right samples of a prompt differ with probability {now}, {start} at the "
                    "start.",
                    "Each prompt has fewer ways to its answer left; pass@k may fall even while "
                    "the accuracy of one sample rises.",
                    "Try algorithm.select = ['correct', 'distinct'], an entropy bonus "
                    "(algorithm.entropy = 0.001), a lower optimizer.lr, or fewer steps.",
                ),
            },
            falls=True,
        ),
        Rule(
            "identical_samples",
            "Share of pairs of a prompt's samples that are identical, beyond the expected.",
            ("identical_pairs", "identical_expected"),
            "share",
            0.2,
            sampled.identical_samples,
            {
                "": Says(
                    "{found} of the pairs of a prompt's samples are identical; by their own "
                    "log-probs {expected} would be.",
                    "The samples of a prompt are copies: more of them say nothing more.",
                    "The sampler ignores its seeds, caches answers or samples at another "
                    "temperature than sampling.temperature: check the server's settings.",
                ),
            },
        ),
        Rule(
            "retokenised",
            "Share of samples whose tokens are not those that were sampled.",
            ("retokenised_rate",),
            "share",
            0.05,
            sampled.retokenised,
            {
                "": Says(
                    "{value} of the samples, which came as text, have other tokens than were "
                    "sampled.",
                    "Their log-probs are of tokens that the policy did not choose.",
                    "Use a server that gives token ids, or engine.sampler = 'local'.",
                ),
            },
        ),
        Rule(
            "sampler_disagrees",
            "Gap per token between the learner's and the sampler's log-probs, nats.",
            ("logprob_gap",),
            "nats",
            0.05,
            updates.sampler_disagrees,
            {
                "": Says(
                    "the learner's log-probs of the samples are {value} a token from those that "
                    "the sampler recorded, with the same weights.",
                    "The samples are of another policy than the one that learns from them.",
                    "Check that the server has this model's weights, chat template and "
                    "temperature; try dtype = 'float32' or the same precision on both sides.",
                ),
            },
        ),
        Rule(
            "ratio",
            "Distance of ratio_mean from 1.",
            ("ratio_mean", "clip_fraction"),
            "number",
            0.5,
            updates.ratio,
            {
                "": Says(
                    "the mean ratio of the policy to the one that sampled is {ratio}{clipped}.",
                    "The updates of a step go so far that its samples are no longer its own.",
                    LESS_OFF_POLICY,
                ),
            },
        ),
        Rule(
            "ess",
            "Effective sample size of a step's updates, as a share of its samples.",
            ("ess", "weight_mean"),
            "share",
            0.3,
            updates.ess,
            {
                "": Says(
                    "the importance weights of the samples are so uneven that they are worth "
                    "{value} of their number{weight}.",
                    "A few samples have nearly all of the weight.",
                    LESS_OFF_POLICY,
                ),
            },
            falls=True,
        ),
        Rule(
            "kl_to_sampling_policy",
            "KL from the policy that sampled, in the updates, nats a token.",
            ("kl_to_sampling_policy",),
            "nats",
            0.3,
            updates.kl_to_sampling_policy,
            {
                "": Says(
                    "within a step the policy moves {value} a token from the one that sampled.",
                    "What is learned from its samples is no longer about the policy.",
                    LESS_OFF_POLICY,
                ),
            },
        ),
        Rule(
            "kl_to_start",
            "KL to the start that brings no accuracy, nats a completion.",
            ("evals.kl", "evals.accuracy", "evals.reward"),
            "nats",
            10.0,
            held_out.kl_to_start,
            {
                "": Says(
                    "KL to the start is {value} a completion, {then} after step {then_step}; "
                    "held-out accuracy went from {before} to {after}.",
                    "The policy leaves what it could do at the start and gets nothing for it.",
                    "Look at held-out samples with winnow show: is the reward fooled? Try a KL "
                    "(algorithm.kl = 'in-loss(0.04)'), a lower optimizer.lr, or fewer steps "
                    "(eval.patience stops by itself).",
                ),
            },
        ),
        Rule(
            "grad_norm",
            "Gradient norm relative to its recent median.",
            ("grad_norm",),
            "times",
            20.0,
            updates.grad_norm,
            {
                "": Says(
                    "the gradient's norm is {now}, {value} the median of the steps before "
                    "({median}), and larger than any.",
                    "Such a step may undo what was learned.",
                    "Look at the step's samples with winnow show. Try a lower "
                    "optimizer.max_grad_norm or optimizer.lr, or dtype = 'float32'.",
                ),
            },
        ),
        Rule(
            "updates_skipped",
            "Share of updates skipped because loss or gradient were not finite.",
            ("updates_skipped", "updates"),
            "share",
            0.1,
            updates.updates_skipped,
            {
                "": Says(
                    "{skipped} of {all} updates were skipped, as loss or gradient were not finite.",
                    "Two in a row end the run; the weights may be on the way there.",
                    "Their batches are in the run's folder skipped. Try a lower optimizer.lr or "
                    "dtype = 'float32'.",
                ),
            },
        ),
        Rule(
            "held_out_falls",
            "Held-out accuracy below its best, intervals apart, in accuracy.",
            ("evals.accuracy", "evals.low", "evals.high", "reward_mean"),
            "points",
            0.05,
            held_out.held_out_falls,
            {
                "": Says(
                    "held-out accuracy has fallen from {best} after step {best_step} to {now} "
                    "after step {step}, while the training reward went {rewards}.",
                    "What is learned holds for the training prompts alone, or the reward is "
                    "fooled.",
                    "The checkpoint of step {best_step} may be the better one: set eval.patience "
                    "to keep the best. Try more prompts, fewer passes (algorithm.epochs), or a "
                    "lower optimizer.lr.",
                ),
            },
        ),
    )
}
"""By name, in the order in which they are looked at."""
