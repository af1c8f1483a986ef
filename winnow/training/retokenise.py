"""Recorded samples -> the tokens that an engine's model has for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from winnow.engines.base import Engine
from winnow.errors import UserError
from winnow.types import Group, Sample


def same_vocabulary(engine: Engine, group: Group) -> bool:
    """Whether a recorded group's prompt has the tokens here that it was sampled with."""
    return not group.prompt_ids or engine.encode(group.prompt) == group.prompt_ids


class Retokeniser:
    """Completes the groups of a file: token ids of prompts and samples where they are not known.

    A sample's end follows from its finish reason: the end-of-sequence token after `eos`, the stop
    string after `stop` if only one is possible, nothing after `length`.

    Args:
        anew: Whether the file's tokens are another model's, so that only its text can be used.
        leave_out: How a sample that cannot be used is left out, for messages.
    """

    def __init__(
        self,
        engine: Engine,
        stop: Sequence[str] = (),
        *,
        anew: bool = False,
        leave_out: str = "leave it out with winnow select --rule 'length(high=...)'",
    ) -> None:
        self._leave_out = leave_out
        self._engine, self._anew = engine, anew
        self._stop = stop[0] if len(stop) == 1 else ""
        self._context = engine.context

    def __call__(self, group: Group) -> Group:
        """The group, complete.

        Raises:
            UserError: a sample that is longer than the model's context, or of no token at all; a
                conversation that the model's chat template does not take.
        """
        known = bool(group.prompt_ids) and not self._anew
        try:
            prompt_ids = group.prompt_ids if known else self._engine.encode(group.prompt)
        except UserError as error:
            raise error.with_(setting="samples_file") from error
        samples = tuple(
            self._complete(group, sample) if self._lacks(sample) else sample
            for sample in group.samples
        )
        longest = len(prompt_ids) + max(len(sample.token_ids) for sample in samples)
        if self._context is not None and longest > self._context:
            raise UserError(
                "samples_file",
                f"a sample of prompt {group.prompt.id!r} is {longest} tokens long with its prompt, "
                f"more than the model's context of {self._context}",
                self._leave_out,
            )
        return group.with_(prompt_ids=prompt_ids, samples=samples)

    def rate(self, recorded: Sequence[Group], complete: Sequence[Group]) -> float | None:
        """Share of the samples tokenized anew whose tokens are known not to be the sampled ones.

        A sample's tokens are others where they do not end in its text where those did that were
        sampled (`types.Sample.token_ends`), or where their text is another.

        Args:
            recorded: Groups of the file.
            complete: The same groups, as this gave them.

        Returns:
            ``None`` if no sample was tokenized anew, or nothing is known of any.
        """
        pairs = zip(recorded, complete, strict=True)
        anew = [
            self._other_tokens(sample, made)
            for before, after in pairs
            for sample, made in zip(before.samples, after.samples, strict=True)
            if self._lacks(sample)
        ]
        known = [found for found in anew if found is not None]
        return sum(known) / len(anew) if known else None

    def _lacks(self, sample: Sample) -> bool:
        """Whether it has no tokens of this model."""
        return self._anew or not sample.token_ids

    def _other_tokens(self, sample: Sample, made: Sample) -> bool | None:
        """Whether the tokens made of a text are others than were sampled; ``None``: not known."""
        text = sample.text
        if not self._engine.decode(made.token_ids).startswith(text):
            return True
        ends = self._engine.token_ends(made.token_ids, text)
        if not sample.token_ends or not ends:
            return None
        # At the end of the text an end token or the rest of a stop string may be there or not.
        before, after = (
            [end for end in own if end < len(text)] for own in (sample.token_ends, ends)
        )
        return before != after

    def _complete(self, group: Group, sample: Sample) -> Sample:
        end = self._stop if sample.finish_reason == "stop" else ""
        ended = sample.finish_reason == "eos"
        ids = self._engine.encode_completion(sample.text + end, ended=ended)
        if not ids:
            problem = f"an answer to prompt {group.prompt.id!r} is empty, with nothing to learn"
            raise UserError("samples_file", problem, "leave it out with winnow select")
        return replace(
            sample, token_ids=ids, logprobs=(), entropies=(), token_ends=(), length=len(ids)
        )
