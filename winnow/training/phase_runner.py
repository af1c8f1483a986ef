"""Sets up the phases of a run, one after another over one engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from winnow.config.phases import File, Phase, naming
from winnow.config.reference import ema_decay, names_model
from winnow.config.schema import Config
from winnow.engines.base import PHASE, PRESENT, START, Engine, Learner, LearnerPlan, Weights
from winnow.engines.factory import engine_beside
from winnow.errors import UserError
from winnow.evaluation.held_out import evaluate
from winnow.evaluation.kl import measures_kl
from winnow.rollouts.annotate import Annotator
from winnow.rollouts.context import Context
from winnow.rollouts.rollout import Rollout
from winnow.storage.checkpoints import DROPPED
from winnow.storage.digests import whole_model
from winnow.storage.paths import shown
from winnow.storage.run_folder import FINAL
from winnow.training.context import UNHEALTHY, Run
from winnow.training.early_stopping import chosen_checkpoint
from winnow.training.file_source import Recorded
from winnow.training.owed import make_up, owes
from winnow.training.retokenise import Retokeniser, same_vocabulary
from winnow.training.sft_mix import Anchor
from winnow.training.sources import EveryStep, Once, Source
from winnow.types import Split


class PhaseRunner:
    """What all phases of a run share, and what the one to come needs.

    Args:
        anchors: For each phase the supervised examples that it mixes in.
        other: The engine of `samples_from`.
        found: The checkpoint to resume from, with its state.
    """

    def __init__(
        self,
        context: Context,
        engine: Engine,
        phases: Sequence[Phase],
        anchors: Sequence[Anchor | None],
        *,
        other: Engine | None = None,
        found: tuple[Path, dict[str, Any]] | None = None,
    ) -> None:
        self.context, self.engine, self.phases = context, engine, phases
        self._anchors, self._other = anchors, other
        self._found = found[0] if found else None
        self._state: dict[str, Any] = found[1] if found else {"step": 0}
        self._version = int(self._state.get("policy_version", 0))
        self._learner: Learner | None = None
        self._completes: dict[int, Retokeniser] = {}
        self._examples: dict[int, Anchor | None] = {}

    def prepare(self) -> None:
        """Set up what of the first phase to run needs no folder, and check the others.

        Raises:
            UserError: something cannot be loaded, or does not fit.
        """
        if self.over:
            return
        engine = self.engine
        begin = PRESENT if self._found is None else START
        adapters = self.context.config.lora.rank > 0
        if needs_start(self.context.config, self.phases):
            engine.snapshot(START, of=begin)
        elif measures_kl(self.context.config, self.context.sampler) and not adapters:
            engine.snapshot(START, of=begin, aside=True)
        todo = self._todo()
        for phase in todo:  # later ones too, so that a mistake in them is known now
            with naming(phase.name):
                if phase.refers and names_model(phase.config.reference):
                    self._check_reference(phase.config.reference)
                if "values" in phase.algorithm.needs:
                    engine.check_critic(phase.config.critic)
                if phase.file is not None:
                    self._completes[phase.number] = self._complete(phase, phase.file)
                anchor = self._anchors[phase.number - 1]
                encoder = Retokeniser(engine, leave_out="leave this example out")
                self._examples[phase.number] = anchor and anchor.encoded(encoder)
        if todo and self._found is None:
            self._learner = self._prepared(todo[0])

    @property
    def over(self) -> bool:
        """Whether nothing is left to train, to make or to evaluate, so that no weights are read.

        With adapters they are: a base that is damaged is written again as it is loaded.
        """
        adapters = self.context.config.lora.rank > 0
        owed = owes(self.context.store, self._state)
        return not adapters and not owed and not self._todo() and self._left() is None

    def _check_reference(self, name: str) -> None:
        """Raise a `UserError` if a model cannot be loaded or has other tokens, without weights."""
        remedy = "use a model with the same tokenizer, so that log-probs can be compared"
        engine_beside(self.context.config, self.engine, "reference", name, remedy)

    def runs(self) -> Iterator[Run]:
        """A run of the loop for each phase that is not done, each set up in its turn."""
        step = self._state["step"]
        self.context.store.rewind(step)
        if owes(self.context.store, self._state):
            make_up(self.context, self.engine, step, self._version)
        for phase in self._todo():
            learner, self._learner = self._learner or self._prepared(phase), None
            yield self._run(phase, learner)
            self._version = learner.version
            learner.close()
            self._found = None

    def _todo(self) -> list[Phase]:
        if self._state.get(DROPPED):  # `resume_point` has seen that it is done
            return []
        return [phase for phase in self.phases if phase.last > self._state["step"]]

    def _resumed(self, phase: Phase) -> bool:
        """Whether a phase was begun before."""
        return self._found is not None and self._state["step"] > phase.before

    def _prepared(self, phase: Phase) -> Learner:
        """The learner of a phase, with the weights that it begins or resumes."""
        config = phase.config
        resumed = self._resumed(phase)
        if phase.restarts and not resumed:
            self.engine.restore(START)
        if phase.refers and (config.reference == PHASE or ema_decay(config.reference) is not None):
            self.engine.snapshot(PHASE, of=self._phase_weights(phase, resumed))
        learner = self.engine.learner(
            LearnerPlan(
                optimizer=config.optimizer,
                updates=phase.updates,
                microbatch_tokens=config.microbatch_tokens,
                critic=config.critic if "values" in phase.algorithm.needs else None,
                reference=config.reference if phase.refers else None,
                version=self._version,
            )
        )
        if self._found is not None and resumed:
            with _reading(self._found):
                learner.load(self._found)
        return learner

    def _phase_weights(self, phase: Phase, resumed: bool) -> Weights:
        """The weights that a phase began with."""
        if phase.config.reference != PHASE:
            return PRESENT  # the average since is in the checkpoint
        if phase.begins_at_start:
            return START
        return self.context.store.checkpoint_of(phase.before) if resumed else PRESENT

    def _complete(self, phase: Phase, file: File) -> Retokeniser:
        """What gives a file's groups the tokens of this model that they lack.

        Raises:
            UserError: a ratio is needed, and the recorded log-probs are another vocabulary's.
        """
        same = same_vocabulary(self.engine, file.table.group(0))
        if not same and "old" in phase.algorithm.needs:
            model = self.context.config.model
            raise UserError(
                "samples_file",
                f"{file.path} has another vocabulary or chat template than {model!r}",
                "use an algorithm without a ratio (rft, raft)",
            )
        if not same:
            self.context.observers.note(
                f"{file.path}: other tokens than this model's; its texts are tokenized anew"
            )
        return Retokeniser(self.engine, phase.config.sampling.stop, anew=not same)

    def _run(self, phase: Phase, learner: Learner) -> Run:
        source = self._source(phase, learner)
        resumed = self._resumed(phase)
        if resumed:
            source.restore(self._state.get("source", {}))
        begun = phase.refers and phase.config.reference == PHASE and not phase.begins_at_start
        return Run(
            phase=phase,
            context=self.context,
            engine=self.engine,
            learner=learner,
            source=source,
            anchor=self._examples[phase.number],
            steps_done=self._state["step"] if resumed else phase.before,
            protect=(phase.before,) if begun else (),
            number=phase.number if len(self.phases) > 1 else None,
            unhealthy=self._state.get(UNHEALTHY, 0) if resumed else 0,
        )

    def _source(self, phase: Phase, learner: Learner) -> Source:
        """The source of a phase's groups."""
        context = self.context
        annotator = Annotator(phase.algorithm, learner, phase.config.sampling.temperature)
        if phase.file is not None:
            for note in phase.file.notes:
                context.observers.note(note)
            complete = self._completes[phase.number]
            return Recorded(phase, phase.file, complete, context, annotator)
        rollout = Rollout(phase, context, annotator)
        if phase.algorithm.resample == "once":
            return Once(phase, rollout, context, annotator, self._other)
        return EveryStep(phase, rollout, context)

    def finish(self) -> None:
        """Make the final model, if it is not a checkpoint's, and evaluate what was not yet.

        A checkpoint that was chosen, or what was made of it, is tested on prompts that had no part
        in choosing it; the start has been tested on them as the run began.
        """
        if (left := self._left()) is None:
            return
        context, engine = self.context, self.engine
        config, store, prompts = context.config, context.store, context.prompts
        final, chosen, step, split, missing = (store.folder / FINAL, *left)
        make = bool(config.checkpoint.average or config.lora.merge)
        engine.restore(chosen)
        if config.checkpoint.average:
            engine.average(START, config.checkpoint.average)
        if make and not final.exists():
            whole_model(final, lambda folder: engine.save(folder, merged=config.lora.merge))
        if missing:
            version = int(store.state_of(step)["policy_version"])
            context.sampler.load(engine.publish(version))
            evaluate(context, step=step, split=split, engine=None if prompts.test else engine)

    def _left(self) -> tuple[Path, int, Split, bool] | None:
        """What `finish` has to do: the checkpoint that is chosen, its step, the split that it is
        evaluated on and whether that is missing; ``None`` if nothing is.
        """
        config, store, prompts = self.context.config, self.context.store, self.context.prompts
        make = bool(config.checkpoint.average or config.lora.merge)
        chosen, step = chosen_checkpoint(store, config.eval.patience)
        split: Split = "test" if prompts.test else "final"
        rows = store.lines("evals.jsonl")
        evaluated = any(row.get("split") == split and row["step"] == step for row in rows)
        missing = bool(prompts.test or (make and prompts.held_out)) and not evaluated
        done = not missing and ((store.folder / FINAL).exists() or not make)
        return None if done else (chosen, step, split, missing)


def needs_start(config: Config, phases: Sequence[Phase]) -> bool:
    """Whether the starting weights are needed again, soon or often.

    Adapters have them beside them.
    """
    adapters = config.lora.rank > 0
    return any(
        phase.restarts
        or phase.config.rounds.restart
        or (phase.refers and phase.config.reference == START and not adapters)
        or (phase.refers and phase.config.reference == PHASE and phase.begins_at_start)
        for phase in phases
    )


@contextmanager
def _reading(checkpoint: Path) -> Iterator[None]:
    """In the block, a file that is missing, of a checkpoint without digests, is a `UserError`."""
    try:
        yield
    except FileNotFoundError as error:
        problem = f"checkpoint {checkpoint.name} is damaged ({error})"
        raise UserError(
            "resume", problem, f"remove {shown(checkpoint)} to resume before it"
        ) from error
