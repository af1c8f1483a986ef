"""THE TABLE. One row an algorithm; read it beside the papers' own.

    prompts -> groups of draws -> scores -> select -> weigh -> one update

A row says only what happens after a draw is scored. The loop never asks which row it runs. To make
one of your own:

    mine = Algorithm("mine", select=(Correct(), Best(2)), advantage=One(),
                     terms=(Term(NLL(), SurvivorMeans()),))
    winnow.train(algorithm=mine, ...)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from winnow.advantages import (
    ADVANTAGES,
    Advantage,
    One,
    Reward,
    RewardScale,
    Softmax,
    Standardised,
)
from winnow.cells import parse, show
from winnow.errors import UserError
from winnow.losses import (
    DENOMINATORS,
    LOSSES,
    NLL,
    Clipped,
    DrawMeans,
    SurvivorMeans,
    SurvivorSums,
    Term,
)
from winnow.lots import Gibbs
from winnow.selection import RULES, Correct, Distinct, Everything, Mixed, Rule

Schedule = Literal["every-step", "once"]


_EVERYTHING = Everything()
_ONE = One()
_LIKELIHOOD = (Term(NLL(), SurvivorMeans()),)


@dataclass(frozen=True)
class Algorithm:
    """A row of the table.

    Attributes:
        name: What `algorithm = "..."` says.
        select: Rules in order; a draw survives if all let it pass.
        advantage: Scaled rewards of a group -> what each draw weighs if it survives.
        terms: What is summed into the loss.
        reward_scale: Rewards as they are (`0/1`) or 2 r - 1 (`-1/+1`).
        draws: New draws `every-step`, or all of them `once`, before the first update.
        epochs: Passes over each set of draws.
        paper: Where it was published.
        note: How it differs from its neighbour; where it departs from the paper.
    """

    name: str
    select: tuple[Rule, ...] = (_EVERYTHING,)
    advantage: Advantage = _ONE
    terms: tuple[Term, ...] = _LIKELIHOOD
    reward_scale: RewardScale = "0/1"
    draws: Schedule = "every-step"
    epochs: int = 1
    paper: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not self.select or not self.terms:
            raise ValueError("an algorithm has at least one rule and one term")
        if self.epochs < 1:
            raise ValueError("epochs is at least 1")

    @property
    def needs(self) -> frozenset[str]:
        """What the loop must provide: `old` where a term divides by the drawing policy."""
        return frozenset({"old"} if any(term.loss.needs_old for term in self.terms) else ())

    @property
    def needs_group(self) -> str | None:
        """The cell that means nothing with one draw a prompt, if there is one."""
        if getattr(self.advantage, "group_baseline", False):
            return f"advantage {show(self.advantage)}"
        rules = [rule for rule in self.select if getattr(rule, "group_rule", False)]
        return f"select {show(rules[0])}" if rules else None

    @property
    def needs_one_policy(self) -> str | None:
        """The cell that takes all draws of a prompt to be of one distribution, if there is one."""
        for cell in (*self.select, self.advantage):
            if getattr(cell, "one_policy", False):
                return show(cell)
        return None

    def cells(self) -> dict[str, str | int | list[str]]:
        """The cells as a recipe writes them; `with_cells` reads them back.

        Raises:
            UserError: with more than one term, which no recipe can say.
        """
        if len(self.terms) != 1:
            raise UserError(f"algorithm {self.name!r} has {len(self.terms)} terms; a recipe has 1")
        (term,) = self.terms
        return {
            "select": [show(rule) for rule in self.select],
            "advantage": show(self.advantage),
            "reward_scale": self.reward_scale,
            "loss": show(term.loss),
            "denominator": show(term.denominator),
            "draws": self.draws,
            "epochs": self.epochs,
        }

    def with_cells(self, cells: Mapping[str, str | int | list[str]]) -> Algorithm:
        """This row with some cells changed.

        Raises:
            UserError: a cell that does not parse, named `algorithm.<cell>`.
        """
        row, (term, *more) = self, self.terms
        for key, value in cells.items():
            field = f"algorithm.{key}"
            if key == "select":
                texts = [value] if isinstance(value, str) else value
                assert isinstance(texts, list)
                row = replace(row, select=tuple(parse(field, text, RULES) for text in texts))
            elif key == "advantage":
                row = replace(row, advantage=parse(field, str(value), ADVANTAGES))
            elif key == "loss":
                term = replace(term, loss=parse(field, str(value), LOSSES))
            elif key == "denominator":
                term = replace(term, denominator=parse(field, str(value), DENOMINATORS))
            else:  # reward_scale, draws and epochs are plain values, checked by the config
                row = replace(row, **{key: value})  # type: ignore[arg-type]
        return replace(row, terms=(term, *more))

    @property
    def formula(self) -> str:
        """The loss, put together from the cells."""
        return " + ".join(
            ("" if t.coefficient == 1 else f"{t.coefficient:g} ")
            + f"{getattr(t.denominator, 'formula', show(t.denominator))} "
            + f"[{getattr(t.loss, 'formula', show(t.loss))}]"
            for t in self.terms
        )


_XIONG = "Xiong et al. 2025, 2504.11343"

ALGORITHMS: Mapping[str, Algorithm] = {
    row.name: row
    for row in (
        Algorithm(
            "rft",
            select=(Correct(), Distinct()),
            advantage=One(),
            terms=(Term(NLL(), SurvivorMeans()),),
            draws="once",
            epochs=3,
            paper="Yuan et al. 2023, 2308.01825",
            note="Offline: one round of draws, distinct right paths, several epochs.",
        ),
        Algorithm(
            "raft",
            select=(Correct(),),
            advantage=One(),
            terms=(Term(NLL(), SurvivorSums()),),
            paper=f"Dong et al. 2023, 2304.06767; {_XIONG}",
            note="RFT iterated. Keeps every right answer; Dong et al. keep best(1).",
        ),
        Algorithm(
            "raft++",
            select=(Correct(),),
            advantage=One(),
            terms=(Term(Clipped(0.2, 0.28), DrawMeans()),),
            paper=_XIONG,
            note="RAFT with importance ratio and clip, for several updates a set of draws.",
        ),
        Algorithm(
            "reinforce",
            select=(Everything(),),
            advantage=Reward(),
            reward_scale="-1/+1",
            terms=(Term(Clipped(0.2, 0.28), DrawMeans()),),
            paper=f"Williams 1992; {_XIONG}",
            note="RAFT++ that also learns from wrong answers.",
        ),
        Algorithm(
            "grpo",
            select=(Everything(),),
            advantage=Standardised("sample"),
            terms=(Term(Clipped(0.2, 0.28), DrawMeans()),),
            paper=f"Shao et al. 2024, 2402.03300; as run by {_XIONG}",
            note="Rewards standardised within the group. No KL term; clip as in 2504.11343.",
        ),
        Algorithm(
            "reinforce-rej",
            select=(Mixed(),),
            advantage=Reward(),
            reward_scale="-1/+1",
            terms=(Term(Clipped(0.2, 0.28), SurvivorMeans()),),
            paper=_XIONG,
            note="REINFORCE on prompts with right and wrong answers only.",
        ),
        Algorithm(
            "gibbs",
            select=(Gibbs(0.5, 1.0),),
            advantage=One(),
            terms=(Term(NLL(), SurvivorSums()),),
            draws="once",
            epochs=3,
            paper="von Neumann 1951; pi* of Rafailov et al. 2023, 2305.18290, eq. 4",
            note="Exact rejection sampling from pi* at beta, then its likelihood. Rewards up to 1.",
        ),
        Algorithm(
            "snis",
            select=(Everything(),),
            advantage=Softmax(0.5),
            terms=(Term(NLL(), SurvivorSums()),),
            draws="once",
            epochs=3,
            paper="Kahn & Marshall 1953; pi* of Rafailov et al. 2023, 2305.18290, eq. 4",
            note="The same target by self-normalised importance weights: every draw is kept.",
        ),
    )
}
