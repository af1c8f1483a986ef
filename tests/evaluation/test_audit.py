"""How often a verifier is mistaken: counts by hand, on files of every shape that is read."""

from __future__ import annotations

import json
from fractions import Fraction

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import winnow
from tests.build import group
from winnow.cli import main
from winnow.config.schema.prompts import PromptsConfig
from winnow.evaluation.audit import CUT_OFF, FINISHED, GOLD, SHUFFLED, audit, gold, read_labelled
from winnow.rewards.factory import make_reward
from winnow.storage.schema import write_groups
from winnow.types import Prompt, Sample

ROWS = [
    # number: the text must end with the answer's number
    {"completion": "it is 5", "label": True},
    {"completion": "it is 5 apples, I think", "label": True},  # false wrong
    {"completion": "it is 4", "label": False},
    {"completion": "4, or no: 2 + 2 = 5", "label": False},  # false right
    {"completion": "it is", "label": False, "finish_reason": "length"},
    {"completion": "it is 5", "label": "wrong", "finish_reason": "length"},  # false right
    {"completion": "5", "label": None},
]


def written(tmp_path, rows=ROWS, name="labelled.jsonl"):
    rows = [{"prompt": "2 + 3 =", "answer": "5", **row} for row in rows]
    if name.endswith(".parquet"):
        rows = [{"finish_reason": "stop", **row, "label": row["label"] is True} for row in rows]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    else:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / name)


def counts(made):
    return {(one.part, one.right): (one.mistaken, one.scored, one.errors) for one in made.rates}


def test_mistakes_are_counted_by_label_and_those_cut_off_apart(tmp_path):
    items, unlabelled = read_labelled(written(tmp_path), PromptsConfig())
    made = audit(items, make_reward("number"))
    assert unlabelled == 1
    assert counts(made) == {
        (FINISHED, True): (1, 2, 0), (FINISHED, False): (1, 2, 0), (CUT_OFF, False): (1, 2, 0),
    }  # fmt: skip
    said = [(one.kind, one.labelled.completion) for one in made.disagreements]
    assert said == [
        ("false wrong", "it is 5 apples, I think"), ("false right", "4, or no: 2 + 2 = 5"),
        ("false right", "it is 5"),
    ]  # fmt: skip


def test_errors_are_in_no_rate(tmp_path):
    """Of an answer that is no number every score is an error."""
    items, _ = read_labelled(written(tmp_path), PromptsConfig())
    odd = [winnow.evaluation.audit.Labelled(Prompt("q", "q", "x y"), "5", True, FINISHED)]
    made = audit([*items, *odd], make_reward("number"))
    assert counts(made)[FINISHED, True] == (1, 2, 1)
    assert made.disagreements[-1].kind == "error"
    assert made.disagreements[-1].row()["error"]


def test_completions_of_one_prompt_go_together():
    """Twenty prompts with four equal completions each are worth twenty: Wilson's interval of 5 of
    20 is [.112, .469]; of 20 of 80 it would be [.168, .355]."""
    one = winnow.evaluation.audit.Labelled
    items = [
        one(Prompt(str(n), str(n), "5"), "it is 5" if n >= 5 else "5 or so", True, FINISHED)
        for n in range(20)
        for _ in range(4)
    ]
    (rate,) = audit(items, make_reward("number")).rates
    assert (rate.mistaken, rate.scored) == (20, 80)
    assert rate.low == pytest.approx(0.112, abs=0.01)
    assert rate.high == pytest.approx(0.469, abs=0.01)


@pytest.mark.parametrize("name", ["labelled.jsonl", "labelled.parquet"])
def test_both_kinds_of_file_are_read(tmp_path, name):
    items, _ = read_labelled(written(tmp_path, ROWS[:4], name), PromptsConfig())
    assert [(one.completion, one.right) for one in items] == [
        (row["completion"], row["label"]) for row in ROWS[:4]
    ]
    assert {(one.prompt.text, one.prompt.answer) for one in items} == {("2 + 3 =", "5")}


def test_a_file_of_samples_is_read_with_its_own_columns(tmp_path):
    """What a verifier read when they were made is read again; its `right` is a label."""
    sampled = group([1.0, 0.0], texts=["it is 5", "it is 5 apples, I think"], name="2 + 3 =")
    prompt = Prompt("p7", "2 + 3 =", "5", data={"note": "kept"})
    cut = Sample((1,), (-1.0,), "it is 5", "length")
    samples = (*sampled.samples, cut)
    scores = (*sampled.scores, sampled.scores[0])
    made = sampled.with_(prompt=prompt, samples=samples, scores=scores)
    write_groups(tmp_path / "s.parquet", "train", 1, [made])
    items, _ = read_labelled(str(tmp_path / "s.parquet"), PromptsConfig(), "right")
    assert [(one.right, one.part) for one in items] == [
        (True, FINISHED), (False, FINISHED), (True, CUT_OFF),
    ]  # fmt: skip
    assert {(one.prompt.id, one.prompt.answer, one.prompt.data["note"]) for one in items} == {
        ("p7", "5", "kept")
    }
    assert not audit(items, make_reward("number")).disagreements


@pytest.mark.parametrize(
    ("rows", "column", "said"),
    [
        ([{"label": True}], "label", "no column 'completion' or 'text'"),
        ([{"text": "5"}], "label", "no column 'label'"),
        ([{"text": "5", "right": 1}], "label", r"--label-column \(right, as winnow records"),
        ([{"text": "5", "label": "maybe"}], "label", "row 1 of .* has the label 'maybe'"),
        ([{"text": "5", "label": 0.5}], "label", "has the label 0.5"),
        ([{"text": "5", "label": None}], "label", "has a label"),
    ],
)
def test_a_file_without_what_is_needed_says_so(tmp_path, rows, column, said):
    with pytest.raises(winnow.UserError, match=f"^--labels: .*{said}"):
        read_labelled(written(tmp_path, rows), PromptsConfig(), column)
    with pytest.raises(winnow.UserError, match=r"^--labels: .*no \.jsonl or \.parquet"):
        read_labelled("labels.csv", PromptsConfig())


def test_answers_go_round_in_one_cycle_without_their_equals():
    """By Fraction as an independent reading: no prompt has its own or an equal answer."""
    answers = [str(n) for n in range(40)] + ["7.0", "14/2", "3"]
    prompts = [Prompt(str(n), f"q{n}", answer) for n, answer in enumerate(answers)]
    for seed in range(20):
        items, left = gold([*prompts, prompts[0]], seed)
        of_itself = [one for one in items if one.part == GOLD]
        shuffled = [one for one in items if one.part == SHUFFLED]
        assert [one.completion for one in of_itself] == answers
        assert len(shuffled) + left == len(answers)
        for one in shuffled:
            assert Fraction(one.completion) != Fraction(one.prompt.answer)
        # each answer but those left out once: a permutation
        assert sorted(one.completion for one in shuffled) != sorted(answers) or left == 0
        assert len({one.prompt.id for one in shuffled}) == len(shuffled)
    with pytest.raises(winnow.UserError, match="no prompt has an answer"):
        gold([Prompt("a", "a")], 0)


def invoke(*given: str):
    return CliRunner().invoke(main.app, ["audit-reward", *given])


def test_the_command_on_labels(tmp_path):
    path = written(tmp_path, [*ROWS, {"completion": "\x1b[31m" + "x " * 200 + "5", "label": False}])
    out = tmp_path / "wrong.jsonl"
    done = invoke("--labels", path, "--reward", "number", "--out", str(out))
    assert done.exit_code == 0, done.exception
    assert "1 row without a label" in done.output
    lines = done.output.splitlines()
    (cut,) = (line.split() for line in lines if line.startswith("cut off"))
    assert cut[2:6] == ["wrong", "2", "1", "right"]
    assert "false wrong:" in done.output
    assert "\x1b" not in done.output
    assert max(map(len, lines)) < 190
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["kind"] for row in rows].count("false right") == 3
    assert rows[0]["label"] is True
    told = json.loads(invoke("--labels", path, "--reward", "number", "--json").output)
    assert [rate["mistaken"] for rate in told["rates"]] == [1, 2, 1]
    again = invoke("--labels", path, "--out", str(out)).exception
    assert "exists already" in str(again)


@pytest.mark.parametrize("odd", [{}, {"completion": None}, {"completion": ["2"]}])
def test_a_label_without_a_completion_is_no_mistake_of_the_verifier(tmp_path, odd):
    row = {"prompt": "1+2=", "answer": "3", "label": False, **odd}
    path = written(tmp_path, [{"completion": "5", "label": None}, *ROWS[:1], row])
    with pytest.raises(
        winnow.UserError, match=r"^--labels: row 3 of .* has no text as 'completion'"
    ):
        read_labelled(path, PromptsConfig())


def test_without_labels_the_exit_code_says_whether_all_is_well(tmp_path):
    rows = [{"prompt": f"{n}", "answer": f"{n} or {n + 1}" if n == 3 else f"{n}"} for n in range(9)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--set", f"prompts.source={tmp_path / 'p.jsonl'}", "--set", "eval.size=2"]
    assert invoke(*given, "--reward", "exact").exit_code == 0
    bad = invoke(*given, "--reward", "number")
    assert isinstance(bad.exception, winnow.UserError)
    assert "'number' is mistaken about 2 of 18 answers" in str(bad.exception)
    # an answer that cannot be read: its own and the one that it is paired with
    assert bad.output.count("answer '3 or 4'") == 2
    all_right = tmp_path / "always.py"
    all_right.write_text("def always(prompt, completion):\n    return 1.0\n")
    generous = invoke(*given, "--reward", f"{all_right}:always")
    assert "mistaken about 9 of 18 answers" in str(generous.exception)
    assert "false right, 3 of 9:" in generous.output


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--label-column", "right"], "--label-column: it is for --labels; give --labels with it"),
        (["--labels", "none", "--seed", "0"], "--seed: labels leave no answers to shuffle; leave"),
    ],
)
def test_an_option_that_nothing_reads_is_refused(given, says):
    assert str(invoke(*given).exception).startswith(says)
