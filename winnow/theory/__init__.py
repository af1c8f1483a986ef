"""The theory that Winnow rests on, in NumPy, without models.

`gibbs` has the optimum of the KL-regularized objective, `rejection` samples from it, `importance`
weights samples instead, `best_of` and `majority` choose among them, `divergence` estimates KL.
"""

from winnow.theory.best_of import (
    best_of_n,
    best_of_n_weights,
    kl_best_of_n,
    kl_best_of_n_bound,
    kl_best_of_n_plugin,
    pass_at_k,
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

__all__ = [
    "ESTIMATORS",
    "Certificate",
    "Estimate",
    "Estimator",
    "MajorityEstimate",
    "accept",
    "acceptance_rate",
    "best_of_n",
    "best_of_n_weights",
    "samples_for_success",
    "effective_sample_size",
    "entropy",
    "k1",
    "k2",
    "k3",
    "kl",
    "kl_best_of_n",
    "kl_best_of_n_bound",
    "kl_best_of_n_plugin",
    "limit_of",
    "log_importance_weights",
    "log_optimal_m",
    "log_partition",
    "log_pi_star",
    "log_target",
    "majority_at_n",
    "normalised_weights",
    "objective",
    "pass_at_k",
    "pi_star",
    "pi_star_limit",
    "rejection_sample",
    "rejection_sample_finite",
    "rso",
    "self_normalised",
    "self_normalised_bias",
    "weight_variance",
    "weight_variance_bound",
]
