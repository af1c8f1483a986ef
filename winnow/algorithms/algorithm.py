"""A row of the table: an algorithm.

    prompts -> groups of samples -> scores -> select -> advantages -> one update

A row says only what happens after a sample is scored. The training loop never asks which row it
runs. To make one of your own:

    mine = Algorithm("mine", select=(Correct(), Best(2)), advantage=One(),
                     terms=(Term(NLL(), SurvivorMeans()),))
    winnow.train(algorithm=mine, ...)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal, get_args

from winnow.algorithms.advantages import Advantage, One, RewardScale
from winnow.algorithms.denominators import SurvivorMeans
from winnow.algorithms.kl import InLoss, InReward, NoKL
from winnow.algorithms.losses import NLL, Entropy, NoCritic, Value
from winnow.algorithms.objective import Term, check_coefficient
from winnow.algorithms.registry import ADVANTAGES, RULES, VOCABULARIES
from winnow.algorithms.selection import Everything, Rule
from winnow.algorithms.spec import Function, Takes, parse, show
from winnow.errors import UserError, choices

Schedule = Literal["every-step", "once"]
CellValue = str | int | float | list[str]


def _rules(field: str, given: Sequence[Rule | Function]) -> tuple[Rule, ...]:
    rules: Any = given
    alone = callable(rules) or isinstance(rules, str)
    return tuple(RULES.adopt(field, rule) for rule in ((rules,) if alone else rules))


def _terms(field: str, given: Term | Sequence[Term]) -> tuple[Term, ...]:
    if isinstance(given, Term):
        return (given,)
    if isinstance(given, list | tuple) and all(isinstance(term, Term) for term in given):
        return tuple(given)
    problem = f"{given!r:.60} is no list of terms"
    raise UserError(field, problem, "write it like (Term(NLL(), Tokens()),)")


_LIKELIHOOD = (Term(NLL(), SurvivorMeans()),)
_NO_KL = NoKL()
_NO_CRITIC = NoCritic()
_KINDS: dict[str, tuple[type, ...]] = {
    "kl": (NoKL, InReward, InLoss),
    "critic": (NoCritic, Value),
}
_WORDS = {"reward_scale": get_args(RewardScale), "resample": get_args(Schedule)}


@dataclass(frozen=True)
class Algorithm:
    """A row of the table.

    Attributes:
        name: What `algorithm = "..."` says.
        select: Rules in order; a sample survives if all let it pass.
        advantage: Scaled rewards of a group -> what each sample counts for if it survives.
        terms: What is summed into the loss.
        reward_scale: Rewards as they are (`0/1`) or 2 r - 1 (`-1/+1`).
        resample: New samples `every-step`, or all of them `once`, before the first update.
        epochs: Passes over each set of samples.
        kl: Penalty for leaving the reference, in the reward or in the loss.
        entropy: Coefficient of a bonus for the entropy of the next token.
        critic: How a critic is trained, for advantages that compare with it.
        refill: How often a step may sample more prompts, for those without a survivor; 0: never.
        paper: Where it was published.
        note: How it differs from its neighbour; where it departs from the paper.
    """

    name: str
    select: Takes[Sequence[Rule | Function], tuple[Rule, ...]] = Takes(_rules, (Everything(),))
    advantage: Takes[Advantage | Function, Advantage] = Takes(ADVANTAGES.adopt, One())
    terms: Takes[Term | Sequence[Term], tuple[Term, ...]] = Takes(_terms, _LIKELIHOOD)
    reward_scale: RewardScale = "0/1"
    resample: Schedule = "every-step"
    epochs: int = 1
    kl: NoKL | InReward | InLoss = _NO_KL
    entropy: float = 0.0
    critic: NoCritic | Value = _NO_CRITIC
    refill: int = 0
    paper: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not self.select or not self.terms:
            raise ValueError("an algorithm must have at least one rule and one term")
        self._check()
        if self.epochs < 1 or self.refill < 0:
            raise ValueError("epochs must be at least 1 and refill not negative")

    def _check(self) -> None:
        """Raise a `UserError` for a cell of another type, which would be passed over."""
        for name, known in _KINDS.items():
            given = getattr(self, name)
            if not isinstance(given, known):
                problem = f"{given!r:.60} is of type {type(given).__name__}"
                made = [f"{kind.__name__}()" for kind in known]
                raise UserError(f"algorithm.{name}", problem, choices(made))
        for name, words in _WORDS.items():
            given = getattr(self, name)
            if given not in words:
                raise UserError(f"algorithm.{name}", f"unknown {given!r:.60}", choices(words))
        if not isinstance(self.name, str):
            raise UserError("algorithm.name", f"must be a str (got {self.name!r:.60})")
        for name in ("epochs", "refill"):
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, Integral):
                raise UserError(f"algorithm.{name}", f"must be an int (got {given!r:.60})")
        check_coefficient("algorithm.entropy", self.entropy)

    @property
    def objective(self) -> tuple[Term, ...]:
        """All terms of the loss: the row's own, and those of its KL, entropy and critic."""
        under = self.terms[0].denominator
        terms = list(self.terms)
        if isinstance(self.kl, InLoss):
            terms.append(Term(self.kl.loss, under, self.kl.beta))
        if self.entropy:
            terms.append(Term(Entropy(), under, self.entropy))
        if isinstance(self.critic, Value):
            terms.append(Term(self.critic, under, self.critic.coefficient))
        return tuple(terms)

    @property
    def needs(self) -> frozenset[str]:
        """What must be computed for the loss and advantages; what is not named costs nothing.

        `old`: true log-probs of the policy that sampled; `ref`: those of a reference; `values`: a
        critic; `rejected`: a forward pass over rejected samples too.
        """
        objective = self.objective
        penalized = isinstance(self.kl, InReward)
        found = {
            "old": penalized or any(term.loss.needs_old for term in objective),
            "ref": bool(self.refers),
            "values": isinstance(self.critic, Value),
            "rejected": any(term.loss.covers == "counted" for term in objective),
        }
        return frozenset(name for name, needed in found.items() if needed)

    @property
    def refers(self) -> frozenset[bool]:
        """Temperatures of the reference log-probs: True for that of sampling, False for 1."""
        found = {term.tempered for term in self.objective if term.refers}
        return frozenset(found | {True} if isinstance(self.kl, InReward) else found)

    @property
    def refers_tempered(self) -> bool:
        """Whether reference log-probs are needed at the sampling temperature."""
        return True in self.refers

    @property
    def graded(self) -> bool:
        """Whether it uses more of a reward than whether it is right."""
        return self.advantage.of_rewards or not all(rule.right_alone for rule in self.select)

    @property
    def may_refill(self) -> bool:
        """Whether a prompt whose samples have scores may be left without a survivor."""
        return not all(rule.leaves_one for rule in self.select)

    @property
    def needs_group(self) -> str | None:
        """The cell that means nothing with one sample a prompt, if there is one."""
        if self.advantage.over == "group":
            return f"advantage {show(self.advantage)}"
        rules = [rule for rule in self.select if rule.group_rule]
        return f"select {show(rules[0])}" if rules else None

    @property
    def needs_one_policy(self) -> str | None:
        """The cell that needs all samples of a prompt from one distribution, if there is one."""
        for cell in (*self.select, self.advantage):
            if cell.one_policy:
                return show(cell)
        return None

    def cells(self) -> dict[str, CellValue]:
        """The cells as a recipe writes them; `with_cells` reads them back.

        Raises:
            UserError: with more than one term, which no recipe can say.
        """
        if len(self.terms) != 1:
            problem = f"{self.name!r} has {len(self.terms)} terms, and a recipe has one"
            raise UserError("algorithm", problem)
        (term,) = self.terms
        return {
            "select": [show(rule) for rule in self.select],
            "advantage": show(self.advantage),
            "reward_scale": self.reward_scale,
            "loss": show(term.loss),
            "denominator": show(term.denominator),
            "resample": self.resample,
            "epochs": self.epochs,
            "kl": show(self.kl),
            "entropy": self.entropy,
            "critic": show(self.critic),
            "refill": self.refill,
        }

    def with_cells(self, cells: Mapping[str, CellValue]) -> Algorithm:
        """This row with some cells changed.

        Raises:
            UserError: a cell that does not parse, named `algorithm.<cell>`.
        """
        changed: dict[str, Any] = {}
        term, *more = self.terms
        for key, value in cells.items():
            field = f"algorithm.{key}"
            if key == "select":
                texts = [value] if isinstance(value, str) else value
                assert isinstance(texts, list)
                changed[key] = tuple(parse(field, text, RULES) for text in texts)
            elif key in VOCABULARIES:
                changed[key] = parse(field, str(value), VOCABULARIES[key])
            else:  # plain values, checked by the config
                changed[key] = value
        given = {key: changed.pop(key) for key in ("loss", "denominator") if key in changed}
        return replace(self, terms=(replace(term, **given), *more), **changed)

    @property
    def formula(self) -> str:
        """The loss, put together from the cells."""
        return " + ".join(
            ("" if t.coefficient == 1 else f"{t.coefficient:g} ") + f"{_mean(t)} [{t.loss.formula}]"
            for t in self.objective
        )


def _mean(term: Term) -> str:
    """A term's denominator as a formula over what the term runs over."""
    formula = term.denominator.formula
    if term.span != "token":
        formula = formula.replace(" 1/|a|", "").replace(" sum_t", "")
    return formula.replace(" 1/survivors_x sum", "") if term.span == "group" else formula
