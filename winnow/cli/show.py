"""`winnow show`: samples for a person to read. Heavy imports happen only inside."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from winnow.cli.options import Samples, print_json_line, say
from winnow.errors import UserError, number_of, printable

if TYPE_CHECKING:
    from winnow.reporting.console import Console
    from winnow.rollouts.look import Look
    from winnow.rollouts.look_filters import Shown
    from winnow.rollouts.prompt_text import PromptTexts

_LIMIT = 5
"""Groups that are shown where nothing is said."""
_LONG = 480
"""Characters of a text that are shown."""
_BAR = "  | "
"""Before each line of a text."""

_Step = Annotated[
    str | None, typer.Option("--step", metavar="N", help="One step, or several: 3-5.")
]
_Prompt = Annotated[
    str | None, typer.Option(metavar="TEXT", help="The id of a prompt, or a part of its text.")
]
_Split = Annotated[
    str | None,
    typer.Option(
        metavar="SPLIT",
        help="train, eval, test, final, sample or all. Default: of a run train, else all.",
    ),
]
_Limit = Annotated[
    int | None,
    typer.Option(min=1, help=f"Most groups to show. Default: {_LIMIT}; with --json all."),
]


def show(
    samples: Samples,
    step: _Step = None,
    split: _Split = None,
    prompt: _Prompt = None,
    never_solved: Annotated[
        bool, typer.Option("--never-solved", help="Only prompts without a right sample.")
    ] = False,
    reason: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Only samples with this in the reason of their outcome."),
    ] = None,
    errors: Annotated[
        bool, typer.Option("--errors", help="Only samples that the verifier failed on.")
    ] = False,
    best: Annotated[
        bool, typer.Option("--best", help="Of each group the best sample, the best first.")
    ] = False,
    worst: Annotated[
        bool,
        typer.Option("--worst", help="The worst. With --best: both, those widest apart first."),
    ] = False,
    limit: _Limit = None,
    full: Annotated[bool, typer.Option("--full", help="Texts whole, however long.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object a sample and line, with all its columns.")
    ] = False,
) -> None:
    """Show samples: prompts, completions, rewards, and why each survived or not.

    Of a run, also while it goes on, of a folder of samples or of Parquet files.
    """
    from winnow.rollouts.look import Look
    from winnow.rollouts.look_filters import Filters

    filters = Filters(split, _steps(step), prompt, never_solved, errors, reason, best, worst)
    look = Look(samples, filters)
    if as_json:
        for row in look.each_row(look.groups[:limit]):
            print_json_line(row)
        for text in _told(look):
            say(text, err=True)
        return
    from winnow.reporting.console import Console

    console = Console(highlight=False, markup=False)
    if look.groups:
        _print_groups(look, limit or _LIMIT, full, console)
    for text in _told(look):
        for line in _wrapped(text, console.width):
            console.print(line, soft_wrap=True)


def _told(look: Look) -> list[str]:
    return [*([look.nothing] if look.nothing else []), *(f"note: {note}" for note in look.notes)]


def _steps(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", text.strip())
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        raise UserError("--step", f"{text!r} is no step", "write 3, or 3-5 for several")
    return int(match[1]), int(match[2] or match[1])


def _print_groups(look: Look, limit: int, full: bool, console: Console) -> None:
    from winnow.rollouts.prompt_text import PromptTexts

    texts, longest = PromptTexts(), None if full else _LONG
    some = look.groups[:limit]
    for group, rows in look.rows(some):
        for line, style in _group_lines(group, rows, texts, longest):
            for part in _wrapped(line, console.width):
                console.print(part, style=style, soft_wrap=True)
        console.print()
    more = len(look.groups) - len(some)
    of = f" of {len(look.groups)}" if more else ""
    left = f"; {more} more with a larger --limit" if more else ""
    what = "" if look.split == "all" else f", split {look.split}"
    console.print(f"{number_of(len(some), 'group')}{of} shown{what}{left}", soft_wrap=True)


def _wrapped(line: str, width: int) -> Iterator[str]:
    """Lines that fit, broken between words where there are any; a bar is before each."""
    from rich.text import Text

    from winnow.reporting.console import Console

    bar = _BAR if line.startswith(_BAR) else ""
    text = Text(line.removeprefix(bar))
    lines = text.wrap(Console(width=width), max(8, width - (len(bar) or 2)), overflow="fold")
    for number, part in enumerate(lines):
        yield f"{bar or '  ' * (number > 0)}{part.plain}".rstrip()


Line = tuple[str, str | None]
"""A text and how it is shown."""


def _group_lines(
    group: Shown, rows: Sequence[Mapping[str, Any]], texts: PromptTexts, longest: int | None
) -> Iterator[Line]:
    if not rows:
        return
    first = rows[0]
    yield _heading(group, first), "bold"
    how, text = texts.of(first)
    yield how, None
    yield from _text(text, longest)
    if first.get("answer") is not None:
        yield f"answer: {printable(first['answer'])}", None
    for row in rows:
        yield _sample_line(row), "green" if row.get("survived") else None
        yield from _text(row.get("text") or "", longest)
    if len(rows) < group.samples:
        yield f"({len(rows)} of its {number_of(group.samples, 'sample')} shown)", None


def _heading(group: Shown, row: Mapping[str, Any]) -> str:
    split = row.get("split") if row.get("split") != "sample" else None
    step = f"step {row['step']}" if split and row.get("step") is not None else ""
    name = f"prompt {row['prompt_id']}" if row.get("prompt_id") else "prompt"
    hard = f"difficulty {row['difficulty']}" if row.get("difficulty") else ""
    counts = [number_of(group.samples, "sample"), f"{group.right} right"]
    counts += [f"{group.survived} kept"] if row.get("survived") is not None else []
    counts += [number_of(group.errors, "error")] if group.errors else []
    about = [part for part in (split, step, name, hard) if part]
    return f"{', '.join(about)}: {', '.join(counts)}"


def _sample_line(row: Mapping[str, Any]) -> str:
    reward, error = row.get("reward"), row.get("error")
    told = [f"reward {reward:g}" if reward is not None else "error" if error else "no reward yet"]
    reason = row.get("reason")
    if row.get("survived") is not None:
        kept = "kept" if row["survived"] else "not kept"
        told.append(kept if reason in (None, "survived") else f"{kept}: {reason}")
    elif reason:
        told.append(reason)
    ended = row.get("finish_reason")
    told += ["cut off" if ended == "length" else f"ended by {ended}"] if ended else []
    told += [number_of(row["tokens"], "token")] if row.get("tokens") is not None else []
    if error and f"verifier error: {error}" != reason:
        told.append(f"verifier error: {error}")
    number = row.get("sample")
    return printable(f"sample{'' if number is None else f' {number}'}: {', '.join(told)}")


def _text(text: str, longest: int | None) -> Iterable[Line]:
    """A text between bars; of a long one its beginning and its end."""
    if not text:
        return [("  (empty)", None)]
    if longest is None or len(text) <= longest:
        return [(f"{_BAR}{line}", None) for line in _lines(text)]
    head, tail = text[: longest * 2 // 3], text[-(longest // 3) :]
    left = len(text) - len(head) - len(tail)
    told = f"  ... {left} characters left out (--full shows them) ..."
    return [
        *((f"{_BAR}{line}", None) for line in _lines(head)),
        (told, "dim"),
        *((f"{_BAR}{line}", None) for line in _lines(tail)),
    ]


def _lines(text: str) -> list[str]:
    """The lines of a text, with what is unprintable escaped."""
    return printable(text).split("\n")


COMMANDS: Mapping[str, tuple[Callable[..., None], str]] = {
    "show": (
        show,
        "Example: winnow show runs/arithmetic-raft++-001 --step 3 --reason wrong --limit 2",
    ),
}
