"""The theory that Winnow rests on, in NumPy, without models.

`gibbs` has the optimum of the KL-regularized objective, `rejection` samples from it, `importance`
weights samples instead, `best_of` and `majority` choose among them, `divergence` estimates KL.
`comparison` has differences over seeds, `summaries` one number for many runs or for a curve,
`verdicts` what may be said of them.
"""

from winnow.theory.best_of import (
    best_of_n,
    best_of_n_weights,
    kl_best_of_n,
    kl_best_of_n_bound,
    kl_best_of_n_plugin,
    pass_at_k,
)
from winnow.theory.comparison import (
    Difference,
    holm,
    least_seeds,
    mean_interval,
    paired,
    seeds_needed,
    sign_flip,
    unpaired,
    within,
)
from winnow.theory.divergence import ESTIMATORS, Estimator, k1, k2, k3
from winnow.theory.gibbs import (
    acceptance_rate,
    entropy,
    kl,
    log_optimal_m,
    log_partition,
    log_pi_star,
    log_target,
    objective,
    pi_star,
    pi_star_limit,
)
from winnow.theory.importance import (
    Estimate,
    effective_sample_size,
    log_importance_weights,
    normalised_weights,
    samples_for_success,
    self_normalised,
    self_normalised_bias,
    weight_variance,
    weight_variance_bound,
)
from winnow.theory.majority import MajorityEstimate, majority_at_n
from winnow.theory.rejection import (
    Certificate,
    accept,
    limit_of,
    rejection_sample,
    rejection_sample_finite,
    rso,
)
from winnow.theory.summaries import (
    area_under,
    first_reach,
    interquartile_mean,
    probability_of_improvement,
)
from winnow.theory.verdicts import Measure, Rule, equal, more_seeds, told, verdict

__all__ = [
    "ESTIMATORS",
    "Certificate",
    "Difference",
    "Estimate",
    "Estimator",
    "MajorityEstimate",
    "Measure",
    "Rule",
    "accept",
    "acceptance_rate",
    "area_under",
    "best_of_n",
    "best_of_n_weights",
    "effective_sample_size",
    "entropy",
    "equal",
    "first_reach",
    "holm",
    "interquartile_mean",
    "k1",
    "k2",
    "k3",
    "kl",
    "kl_best_of_n",
    "kl_best_of_n_bound",
    "kl_best_of_n_plugin",
    "least_seeds",
    "limit_of",
    "log_importance_weights",
    "log_optimal_m",
    "log_partition",
    "log_pi_star",
    "log_target",
    "majority_at_n",
    "mean_interval",
    "more_seeds",
    "normalised_weights",
    "objective",
    "paired",
    "pass_at_k",
    "pi_star",
    "pi_star_limit",
    "probability_of_improvement",
    "rejection_sample",
    "rejection_sample_finite",
    "rso",
    "samples_for_success",
    "seeds_needed",
    "self_normalised",
    "self_normalised_bias",
    "sign_flip",
    "told",
    "unpaired",
    "verdict",
    "weight_variance",
    "weight_variance_bound",
    "within",
]
