"""Sets up a plan's phases, one after another over one engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from winnow.config.phases import File, Phase, naming
from winnow.config.schema import Config
from winnow.engines.base import Sampler, WeightsRef
from winnow.errors import UserError
from winnow.evaluation.held_out import evaluate
from winnow.prompts.loading import PromptSet
from winnow.reporting.observer import Reporter
from winnow.reporting.timing import Stopwatch
from winnow.rewards.base import Reward
from winnow.rollouts.annotate import Annotator
from winnow.rollouts.rollout import Rollout
from winnow.storage.atomic import whole_folder
from winnow.storage.run_folder import FINAL, RunStore
from winnow.training.context import Run
from winnow.training.early_stopping import chosen_checkpoint
from winnow.training.file_source import Complete, Recorded
from winnow.training.sft_mix import Anchor
from winnow.training.sources import EveryStep, Once, Source

if TYPE_CHECKING:
    from winnow.engines.local.engine import LocalEngine
    from winnow.engines.local.learner import LocalLearner
    from winnow.engines.models.loading import ModelSource


@dataclass
class Workshop:
    """What all phases of a run share.

    Attributes:
        anchors: For each phase the supervised examples that it mixes in.
        model: Where the starting weights are.
        sampling: Gives the sampler, where samples are made once.
        found: The checkpoint to resume from, with its state.
    """

    config: Config
    phases: Sequence[Phase]
    prompts: PromptSet
    anchors: Sequence[Anchor | None]
    model: ModelSource
    reward: Reward
    reporter: Reporter
    engine: LocalEngine
    sampler: Sampler
    sampling: Callable[[], Sampler]
    found: tuple[Path, dict[str, Any]] | None

    def __post_init__(self) -> None:
        self._state: dict[str, Any] = self.found[1] if self.found else {"step": 0}
        self._version = int(self._state.get("policy_version", 0))
        self._start: list[Any] | None = None
        self._learner: LocalLearner | None = None
        self._store: RunStore | None = None
        self._completes: dict[int, Complete] = {}
        self._examples: dict[int, Anchor | None] = {}
        self._watch = Stopwatch()

    @property
    def store(self) -> RunStore:
        assert self._store is not None
        return self._store

    def prepare(self) -> None:
        """Set up what of the first phase to run needs no folder, and check the others.

        Raises:
            UserError: something cannot be loaded, or does not fit.
        """
        if self._needs_start():
            fresh = self.found is None
            self._start = self.engine.weights() if fresh else self.engine.read(self.model)
        todo = self._todo()
        for phase in todo:  # later ones too, so that a mistake in them is known now
            with naming(phase.name):
                if phase.refers:
                    self.engine.check_reference(phase.config.reference)
                if phase.file is not None:
                    self._completes[phase.number] = self._complete(phase, phase.file)
                self._examples[phase.number] = self._encoded(self.anchors[phase.number - 1])
        if todo and self.found is None:
            self._learner = self._prepared(todo[0])

    def open(self, store: RunStore) -> None:
        """Take the folder of the run."""
        self._store = store
        store.rewind(self._state["step"])
        if self.engine.adapters is not None and not self.model.ordinary:
            self.engine.adapters.keep_base(store.folder / "base")

    def runs(self) -> Iterator[Run]:
        """A run of the loop for each phase that is not done, each set up in its turn."""
        for phase in self._todo():
            learner, self._learner = self._learner or self._prepared(phase), None
            yield self._run(phase, learner)
            self._version = learner.version
            learner.close()
            self.found = None

    def _todo(self) -> list[Phase]:
        return [phase for phase in self.phases if phase.last > self._state["step"]]

    def _resumed(self, phase: Phase) -> bool:
        """Whether a phase was begun before."""
        return self.found is not None and self._state["step"] > phase.before

    def _needs_start(self) -> bool:
        """Whether a copy of the starting weights is needed."""
        adapters = self.config.lora.rank > 0
        return any(
            phase.restarts
            or phase.config.rounds.restart
            or (phase.refers and phase.config.reference == "start" and not adapters)
            or (phase.refers and phase.config.reference == "phase" and phase.begins_at_start)
            for phase in self.phases
        )

    def _prepared(self, phase: Phase) -> LocalLearner:
        """The learner of a phase, with the weights that it begins or resumes."""
        config, engine = phase.config, self.engine
        resumed = self._resumed(phase)
        if phase.restarts and not resumed:
            assert self._start is not None
            engine.put(self._start)
        elif self.found is not None and engine.adapters is not None:
            # The engine has read the base model, not the adapters of the checkpoint.
            engine.put(engine.read(self.found[0]))
        reference = None
        if phase.refers:
            begun = self._phase_weights(phase, resumed)
            reference = engine.reference(config.reference, self._start, begun)
        values = "values" in phase.algorithm.needs
        learner = engine.learner(
            config.optimizer,
            total_updates=phase.updates,
            microbatch_tokens=config.microbatch_tokens,
            critic=config.critic if values else None,
            reference=reference,
        )
        learner.version = self._version
        if self.found is not None and resumed:
            learner.load(self.found[0])
        return learner

    def _phase_weights(self, phase: Phase, resumed: bool) -> Sequence[Any] | None:
        """The weights that a phase began with, where its reference needs them."""
        what = phase.config.reference
        if what == "phase" and phase.begins_at_start:
            return self._start
        if what == "phase" and resumed:
            from_step = self.store.checkpoint_of(phase.before)
            return self.engine.read(from_step)
        return self.engine.weights() if what == "phase" or what.startswith("ema") else None

    def _encoded(self, anchor: Anchor | None) -> Anchor | None:
        return anchor and anchor.encoded(self.engine.retokeniser((), anew=False))

    def _complete(self, phase: Phase, file: File) -> Complete:
        """What gives a file's groups the tokens of this model that they lack.

        Raises:
            UserError: a ratio is needed, and the recorded log-probs are another vocabulary's.
        """
        same = self.engine.same_vocabulary(file.table.group(0))
        if not same and "old" in phase.algorithm.needs:
            raise UserError(
                "samples_file",
                f"{file.path} has another vocabulary or chat template than {self.config.model!r}",
                "use an algorithm without a ratio (rft, raft)",
            )
        if not same:
            self.reporter.note(
                f"{file.path}: other tokens than this model's; its texts are tokenised anew"
            )
        return self.engine.retokeniser(phase.config.sampling.stop, anew=not same)

    def _run(self, phase: Phase, learner: LocalLearner) -> Run:
        config = phase.config
        source = self._source(phase, learner)
        resumed = self._resumed(phase)
        if resumed:
            source.restore(self._state.get("source", {}))
        keeps = phase.refers and config.reference == "phase" and not phase.begins_at_start
        return Run(
            config=config,
            whole=self.config,
            algorithm=phase.algorithm,
            sampler=self.sampler,
            learner=learner,
            source=source,
            reward=self.reward,
            held_out=self.prompts.held_out,
            store=self.store,
            watch=self._watch,
            reporter=self.reporter,
            steps_done=self._state["step"] if resumed else phase.before,
            anchor=self._examples[phase.number],
            restart=self._start if config.rounds.restart else None,
            protect=(phase.before,) if keeps else (),
            phase=phase.number if len(self.phases) > 1 else None,
        )

    def _source(self, phase: Phase, learner: LocalLearner) -> Source:
        """The source of a phase's groups."""
        config = phase.config
        annotator = Annotator(phase.algorithm, learner, config.sampling.temperature)
        if phase.file is not None:
            for note in phase.file.notes:
                self.reporter.note(note)
            complete = self._completes[phase.number]
            return Recorded(
                phase,
                phase.file,
                complete,
                annotator=annotator,
                store=self.store,
                watch=self._watch,
            )
        rollout = self._rollout(phase, annotator)
        if phase.algorithm.resample == "once":
            return Once(phase, rollout, annotator, self._watch)
        return EveryStep(phase, rollout, self.store)

    def _rollout(self, phase: Phase, annotator: Annotator) -> Rollout:
        once = phase.algorithm.resample == "once"
        return Rollout(
            phase,
            self.sampling if once else lambda: self.sampler,
            prompts=self.prompts,
            reward=self.reward,
            annotator=annotator,
            store=self.store,
            watch=self._watch,
            progress=self.reporter.progress,
        )

    def finish(self) -> None:
        """Make and evaluate the final model, if it is not a checkpoint's."""
        config, store, engine = self.config, self.store, self.engine
        final = store.folder / FINAL
        if not (config.checkpoint.average or config.lora.merge):
            return
        evaluated = any(row.get("split") == "final" for row in store.lines("evals.jsonl"))
        if final.exists() and (evaluated or not self.prompts.held_out):
            return
        chosen, step = chosen_checkpoint(store, config.eval.patience)
        weights = engine.read(chosen)
        if config.checkpoint.average:
            start = self._start or engine.read(self.model)
            weights = engine.averaged(weights, start, config.checkpoint.average)
        engine.put(weights)
        if not final.exists():
            whole_folder(final, lambda folder: engine.save(folder, merged=config.lora.merge))
        if self.prompts.held_out:
            self.sampler.load(WeightsRef(self._version, module=engine.load()))
            evaluate(
                config,
                self.sampler,
                self.prompts.held_out,
                self.reward,
                store,
                self.reporter,
                step=step,
                split="final",
            )
