"""What a selection writes, survivors, pairs or prompts: all is checked before any is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from winnow.algorithms.selection import Rule
from winnow.algorithms.spec import show
from winnow.errors import UserError
from winnow.reporting.observer import Progress
from winnow.rollouts import export, pairs, prompt_rows
from winnow.rollouts.selected import Selected
from winnow.storage.atomic import refuse
from winnow.storage.sample_table import SampleTable


@dataclass(frozen=True)
class Outputs:
    """Files to write.

    Attributes:
        files: Of survivors: .parquet (all columns), .jsonl (as other trainers read it).
        form: Of a .jsonl file.
        rejected: Whether Parquet files hold the rejected samples too, with their reasons.
        prompts: A .jsonl file for the rows of the prompts that have survivors.
        control: Whether as many of all prompts, at random, are written beside it.
    """

    files: Sequence[Path]
    form: export.Form = "auto"
    rejected: bool = False
    prompts: Path | None = None
    control: bool = False

    @property
    def paired(self) -> list[Path]:
        """Files of pairs."""
        return [path for path in self.lines if self.form == "preference"]

    @property
    def lines(self) -> list[Path]:
        """Files of samples as lines of JSON."""
        return [path for path in self.files if path.suffix == ".jsonl"]

    @property
    def every(self) -> list[Path]:
        """All that is written."""
        return written(self.files, self.prompts, self.control)

    def columns(self) -> set[str]:
        """Columns that must be read for them, where they are there."""
        found = set(prompt_rows.OF_ROW) if self.prompts is not None else set()
        return found | ({*export.OF_PROMPT, "text"} if self.paired else set())

    def check_options(self, rules: Sequence[Rule]) -> None:
        """Raise a `UserError` for what does not go together, whatever is on the disk."""
        export.check_lines(self.form, self.files)
        if rules[-1].pairs and self.lines and not self.paired:
            problem = f"{show(rules[-1])} keeps the worst too, which is nothing to imitate"
            remedy = "write pairs with --form preference, or .parquet"
            raise UserError("out", problem, remedy)
        if self.control and self.prompts is None:
            raise UserError("control", "it is written beside a file of prompts", "add --prompts")
        if self.prompts is not None and self.prompts.suffix != ".jsonl":
            raise UserError("prompts", f"cannot write {self.prompts.name!r}", "use .jsonl")
        if self.rejected and not any(path.suffix == ".parquet" for path in self.files):
            raise UserError(
                "rejected", "only a .parquet file holds rejected samples", "name one as output"
            )
        if len({path.absolute() for path in self.every}) < len(self.every):
            raise UserError("out", "one file is named twice", "name each file once")

    def check(self, table: SampleTable) -> None:
        """Raise a `UserError` for files that cannot be written, or not from these samples."""
        for path in self.files:
            export.check_output(path)
        for path in self.every[len(self.files) :]:
            try:
                refuse(path)
            except UserError as error:
                raise error.with_(setting="prompts", remedy="choose another --prompts") from error
        for path in self.files:
            export.check_columns(table, path)
        if self.prompts is not None and not {"prompt", "messages"} & set(table.columns):
            problem = f"{table.parts[0].path} has no column prompt, which {self.prompts} needs"
            raise UserError("samples", problem)

    def write(
        self,
        table: SampleTable,
        selected: Selected,
        rules: Sequence[Rule],
        seed: int,
        progress: Progress,
    ) -> list[str]:
        """Write them all.

        Returns:
            Notes on what was written.

        Raises:
            UserError: nothing would be in one of them; nothing is written then.
        """
        self._check_kept(selected)
        notes, made = [], list[pairs.Pair]()
        if self.paired:
            made = pairs.pairs_of(table, selected, of_survivors=rules[-1].pairs, seed=seed)
            notes.append(pairs.remark(made, selected))
            if not made:
                remedy = "use rules that reject some, such as correct, or best-worst"
                problem = f"{notes[0]}, so {self.paired[0]} would be empty"
                raise UserError("out", problem, remedy)
        for path in self.files:
            progress(f"write {path.name}", 0, 1)
            if path in self.paired:
                pairs.export_pairs(table, selected, made, path)
            else:
                export.export(table, selected, path, form=self.form, rejected=self.rejected)
        if self.prompts is not None:
            notes += self._write_prompts(self.prompts, table, selected, rules, seed)
        return notes

    def _check_kept(self, selected: Selected) -> None:
        """Raise a `UserError` if some file would hold nothing."""
        empty = [p for p in self.every if not (self.rejected and p.suffix == ".parquet")]
        if selected.survivors or not empty:
            return
        why = ", ".join(f"{t.rule} rejected {t.removed}" for t in selected.tallies if t.removed)
        problem = f"none of {selected.samples} samples survives ({why}), so {empty[0]} is not made"
        setting = "prompts" if empty[0] == self.prompts else "out"
        raise UserError(setting, problem, "loosen a rule, or write no file to see the report")

    def _write_prompts(
        self,
        path: Path,
        table: SampleTable,
        selected: Selected,
        rules: Sequence[Rule],
        seed: int,
    ) -> list[str]:
        kept = prompt_rows.surviving(table, selected)
        chosen = {path: (kept, ", ".join(map(show, rules)))}
        if self.control:
            said = f"none: {len(kept)} of {len(table)} prompts at random, seed {seed}"
            control = prompt_rows.at_random(table, len(kept), seed)
            chosen[prompt_rows.control_of(path)] = (control, said)
        made = {
            where: prompt_rows.text_of(table, selected, *what) for where, what in chosen.items()
        }
        for where, text in made.items():
            prompt_rows.write(where, text)
        if len(kept) == len(table) and self.control:
            return [f"every prompt survives, so the control of {path} is the same prompts"]
        return []


def written(files: Sequence[Path], prompts: Path | None, control: bool) -> list[Path]:
    """All files of a selection: those of samples, of prompts and of their control."""
    if prompts is None:
        return [*files]
    return [*files, prompts, *([prompt_rows.control_of(prompts)] if control else [])]
