"""THE TABLE: every algorithm is a row. Read it beside the papers."""

from __future__ import annotations

from collections.abc import Mapping

from winnow.algorithms.advantages import (
    GAE,
    Centred,
    Extremes,
    LeaveOneOut,
    One,
    Reward,
    Softmax,
    Standardised,
)
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.denominators import (
    Constant,
    GroupMeans,
    SampleMeans,
    SurvivorMeans,
    SurvivorSums,
    Tokens,
)
from winnow.algorithms.kl import InReward
from winnow.algorithms.losses import DPO, NLL, Clipped, Importance, SequenceClipped, Value
from winnow.algorithms.objective import Term
from winnow.algorithms.rejection import Gibbs
from winnow.algorithms.selection import BestWorst, Correct, Distinct, Everything, Mixed

XIONG = "Xiong et al. 2025, 2504.11343"


ALGORITHMS: Mapping[str, Algorithm] = {
    row.name: row
    for row in (
        Algorithm(
            "rft",
            select=(Correct(), Distinct()),
            advantage=One(),
            terms=(Term(NLL(), SurvivorMeans()),),
            resample="once",
            epochs=3,
            paper="Yuan et al. 2023, 2308.01825",
            note="Offline: one round of samples, distinct right paths, several epochs.",
        ),
        Algorithm(
            "raft",
            select=(Correct(),),
            advantage=One(),
            terms=(Term(NLL(), SurvivorSums()),),
            paper=f"Dong et al. 2023, 2304.06767; {XIONG}",
            note="RFT iterated. Keeps every right completion; Dong et al. keep best(1).",
        ),
        Algorithm(
            "raft++",
            select=(Correct(),),
            advantage=One(),
            terms=(Term(Clipped(0.2, 0.28), SampleMeans()),),
            paper=XIONG,
            note="RAFT with importance ratio and clip, for several updates per set of samples.",
        ),
        Algorithm(
            "reinforce",
            select=(Everything(),),
            advantage=Reward(),
            reward_scale="-1/+1",
            terms=(Term(Clipped(0.2, 0.28), SampleMeans()),),
            paper=f"Williams 1992; {XIONG}",
            note="RAFT++ that also learns from wrong completions.",
        ),
        Algorithm(
            "grpo",
            select=(Everything(),),
            advantage=Standardised("sample"),
            terms=(Term(Clipped(0.2, 0.28), SampleMeans()),),
            paper=f"Shao et al. 2024, 2402.03300; as run by {XIONG}",
            note="Rewards standardised within the group. No KL term; clip as in 2504.11343.",
        ),
        Algorithm(
            "reinforce-rej",
            select=(Mixed(),),
            advantage=Reward(),
            reward_scale="-1/+1",
            terms=(Term(Clipped(0.2, 0.28), SurvivorMeans()),),
            paper=XIONG,
            note="REINFORCE on prompts with right and wrong samples only.",
        ),
        Algorithm(
            "gibbs",
            select=(Gibbs(0.5, 1.0),),
            advantage=One(),
            terms=(Term(NLL(), SurvivorSums()),),
            resample="once",
            epochs=3,
            paper="von Neumann 1951; pi* of Rafailov et al. 2023, 2305.18290, eq. 4",
            note="Exact rejection sampling from pi*, then maximum likelihood. Rewards up to 1.",
        ),
        Algorithm(
            "snis",
            select=(Everything(),),
            advantage=Softmax(0.5),
            terms=(Term(NLL(), SurvivorSums()),),
            resample="once",
            epochs=3,
            paper="Kahn & Marshall 1953; pi* of Rafailov et al. 2023, 2305.18290, eq. 4",
            note="The same target by self-normalized importance weights: every sample is kept.",
        ),
        Algorithm(
            "ppo",
            select=(Everything(),),
            advantage=GAE(1.0, 0.95),
            terms=(Term(Clipped(0.2, 0.2), Tokens()),),
            kl=InReward(0.05),
            critic=Value(0.2, 0.5),
            epochs=4,
            paper="Schulman et al. 2017, 1707.06347; Ouyang et al. 2022, 2203.02155",
            note="GAE with a critic; KL to the reference in the reward.",
        ),
        Algorithm(
            "rloo",
            select=(Everything(),),
            advantage=LeaveOneOut(),
            terms=(Term(Importance(), Constant(1.0)),),
            kl=InReward(0.05),
            paper="Ahmadian et al. 2024, 2402.14740",
            note="REINFORCE against the mean of the other samples; no critic, no clip.",
        ),
        Algorithm(
            "dr-grpo",
            select=(Everything(),),
            advantage=Centred(),
            terms=(Term(Clipped(0.2, 0.2), Constant(1.0)),),
            paper="Liu et al. 2025, 2503.20783",
            note="GRPO without its two biases: no sigma, no 1/|a|.",
        ),
        Algorithm(
            "dapo",
            select=(Mixed(),),
            advantage=Standardised("sample"),
            terms=(Term(Clipped(0.2, 0.28), Tokens()),),
            refill=3,
            paper="Yu et al. 2025, 2503.14476",
            note="GRPO on batches full of mixed groups, mean over tokens. The paper's penalty for "
            "long completions is a reward: length, beside the verifier.",
        ),
        Algorithm(
            "gspo",
            select=(Everything(),),
            advantage=Standardised("sample"),
            terms=(Term(SequenceClipped(3e-4, 4e-4), SampleMeans()),),
            paper="Zheng et al. 2025, 2507.18071",
            note="GRPO with one ratio per completion, clipped as a whole.",
        ),
        Algorithm(
            "dpo",
            select=(BestWorst(),),
            advantage=Extremes(),
            terms=(Term(DPO(0.1), GroupMeans()),),
            resample="once",
            epochs=1,
            paper="Rafailov et al. 2023, 2305.18290",
            note="Best against worst of each prompt by the verifier, pairs sampled once.",
        ),
        Algorithm(
            "iterative-dpo",
            select=(BestWorst(),),
            advantage=Extremes(),
            terms=(Term(DPO(0.1), GroupMeans()),),
            paper=f"Dong et al. 2024, 2405.07863; as a baseline of {XIONG}",
            note="DPO with pairs from the current policy, against a fixed reference.",
        ),
    )
}
