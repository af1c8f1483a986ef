"""Where prompts come from, which are held out, and in which order they are trained on."""

from __future__ import annotations

import contextlib
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.config.schema.eval import EvalConfig
from winnow.config.schema.prompts import PromptsConfig
from winnow.errors import UserError
from winnow.prompts.arithmetic import arithmetic
from winnow.prompts.columns import RowError
from winnow.prompts.loading import (
    PromptSet,
    clashes,
    family,
    load_held_out,
    load_prompts,
    read,
)
from winnow.prompts.rows import fill, from_rows, read_hub, read_jsonl, read_parquet
from winnow.storage.messages import tools_of
from winnow.types import Prompt

COMPUTE = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def config(**changes) -> PromptsConfig:
    return PromptsConfig(**changes)


def problem(prompt: Prompt) -> tuple[int, str, int]:
    """The last line of an arithmetic prompt, read as a person would."""
    match = re.fullmatch(r"(\d+) ([-+*]) (\d+) =", prompt.text.splitlines()[-1])
    assert match
    return int(match[1]), match[2], int(match[3])


class TestArithmetic:
    @settings(max_examples=40)
    @given(
        operations=st.lists(st.sampled_from("+-*"), min_size=1, max_size=3),
        digits=st.lists(st.integers(1, 12), min_size=1, max_size=3),
        seed=st.integers(0, 2**40),
    )
    def test_answers_ranges_and_examples(self, operations, digits, seed) -> None:
        made = arithmetic(config(operations=operations, digits=digits, size=200), seed)
        assert 0 < len(made) <= 200
        assert len({p.id for p in made}) == len({p.text for p in made}) == len(made)
        for prompt in made:
            a, op, b = problem(prompt)
            assert prompt.answer == str(COMPUTE[op](a, b))
            length = int(prompt.difficulty.split("-")[0])
            assert prompt.difficulty == f"{length}-digit {op}"
            assert op in operations
            assert len(str(a)) == len(str(b)) == length
            assert length in digits
            *shots, _ = prompt.text.splitlines()
            assert len(shots) == 3
            for shot in shots:
                x, shown, y, _, z = shot.split()
                assert shown == op
                assert int(z) == COMPUTE[op](int(x), int(y))
                assert {int(x), int(y)} != {a, b}  # never asked, not even the other way round

    def test_the_prompt_that_a_small_model_can_follow(self) -> None:
        prompt = arithmetic(config(), 0)[0]
        a, _, b = problem(prompt)
        assert prompt.text == f"12 + 7 = 19\n30 + 24 = 54\n8 + 65 = 73\n{a} + {b} ="
        assert prompt.data == {
            "question": f"{a} + {b} =",
            "answer": str(a + b),
            "a": str(a),
            "b": str(b),
            "op": "+",
        }

    def test_every_problem_there_is(self) -> None:
        """90 x 90 ordered pairs, less (30, 24) and (24, 30): the other examples have one digit."""
        made = arithmetic(config(), 0)
        assert len(made) == 90 * 90 - 2
        assert {problem(p)[0] for p in made} == {problem(p)[2] for p in made} == set(range(10, 100))
        assert {problem(p)[0] for p in arithmetic(config(digits=[1]), 0)} <= set(range(10))

    def test_kinds_are_mixed_evenly_as_long_as_they_last(self) -> None:
        made = arithmetic(config(operations=["+", "*"], digits=[1, 3], size=1000), 0)
        first = Counter(p.difficulty for p in made[:200])
        assert set(first) == {"1-digit +", "1-digit *", "3-digit +", "3-digit *"}
        assert max(first.values()) - min(first.values()) <= 20
        whole = Counter(p.difficulty for p in made)
        assert 80 <= whole["1-digit +"] <= 100
        assert 80 <= whole["1-digit *"] <= 100
        assert len(made) == 1000
        assert abs(whole["3-digit +"] - whole["3-digit *"]) <= 1

    def test_difficulties_come_up_equally_often_in_training(self) -> None:
        loaded = load_prompts(config(digits=[1, 2], size=800), EvalConfig(size=40), 0)
        counts = Counter(p.difficulty for p in loaded.train)
        assert counts["1-digit +"] == counts["2-digit +"] > 600
        held_out = {family(p) for p in loaded.held_out}
        assert len(held_out) == 40
        assert not held_out & {family(p) for p in loaded.train}

    def test_the_seed_decides_and_nothing_else(self) -> None:
        kinds = {"operations": ["+", "-"], "digits": [2, 5], "size": 300}
        assert arithmetic(config(**kinds), 7) == arithmetic(config(**kinds), 7)
        assert arithmetic(config(**kinds), 7) != arithmetic(config(**kinds), 8)
        fewer = arithmetic(config(**{**kinds, "size": 100}), 7)
        assert fewer == arithmetic(config(**kinds), 7)[:100]

    def test_an_operation_named_twice_counts_once(self) -> None:
        twice = arithmetic(config(operations=["+", "+"], digits=[1, 1], size=50), 0)
        assert twice == arithmetic(config(operations=["+"], digits=[1], size=50), 0)

    @pytest.mark.parametrize("shot", ["3 + 4 = 7", "3+4=7", "3  +  4"])
    def test_a_template_of_ones_own_and_its_examples(self, shot) -> None:
        template = shot + "\n{a} plus {b} ({op}), {{{question}}}"
        made = arithmetic(config(template=template, digits=[1]), 0)
        first = made[0]
        a, b = first.data["a"], first.data["b"]
        assert first.text == f"{shot}\n{a} plus {b} (+), {{{a} + {b} =}}"
        asked = {(p.data["a"], p.data["b"]) for p in made}
        assert len(asked) == 98
        assert not asked & {("3", "4"), ("4", "3")}
        with pytest.raises(UserError, match=r"^prompts\.template: 'arithmetic' has no column 'c'"):
            arithmetic(config(template="{c}"), 0)

    def test_chat(self) -> None:
        plain = arithmetic(config(size=1), 0)[0]
        assert plain.messages is None
        spoken = arithmetic(config(size=1, chat=True), 0)[0]
        assert spoken.messages == ({"role": "user", "content": plain.text},)
        told = arithmetic(config(size=1, chat=True, system="Be brief."), 0)[0]
        assert told.messages[0] == {"role": "system", "content": "Be brief."}


class TestHoldingOut:
    def test_no_family_is_on_both_sides(self) -> None:
        found = load_prompts(config(operations=["+", "-", "*"]), EvalConfig(size=512), 0)
        assert len(found.held_out) == 512

        def families(prompts):
            return {(frozenset(problem(p)[::2]), problem(p)[1]) for p in prompts}

        assert len(families(found.held_out)) == 512
        assert not families(found.train) & families(found.held_out)

    @pytest.mark.parametrize("seed", [1, 2])
    def test_the_seed_of_a_run_does_not_change_what_is_held_out(self, seed) -> None:
        first = load_prompts(config(), EvalConfig(), 0)
        other = load_prompts(config(), EvalConfig(), seed)
        assert first.held_out == other.held_out
        assert first.train != other.train

    def test_the_order_and_size_of_the_file_do_not_matter(self, tmp_path) -> None:
        rows = [{"prompt": f"question  {i % 30}" + " " * (i // 30), "answer": i} for i in range(60)]
        path = tmp_path / "rows.jsonl"
        texts = []
        for attempt in range(4):
            random.Random(attempt).shuffle(rows)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            found = load_prompts(config(source=str(path)), EvalConfig(size=10), attempt)
            texts.append([(p.text, p.answer) for p in found.held_out])
            assert len(found.train) == 40  # the other wordings are kept out of training too
            assert not {family(p) for p in found.train} & {family(p) for p in found.held_out}
        assert texts[0] == texts[1] == texts[2] == texts[3]
        with path.open("a") as file:
            file.writelines(json.dumps({"prompt": f"new {i}"}) + "\n" for i in range(30))
        more = load_prompts(config(source=str(path)), EvalConfig(size=10), 0).held_out
        kept = {text for text, _ in texts[0]} & {p.text for p in more}
        assert 2 <= len(kept) < 10  # half of a file twice as large, not another choice

    def test_an_evaluation_sees_what_training_does_not(self, tmp_path) -> None:
        for evaluation in (EvalConfig(size=100), EvalConfig(size=7)):
            trained = load_prompts(config(), evaluation, 0)
            assert load_held_out(config(), evaluation, 0) == PromptSet((), trained.held_out)
        limited = load_prompts(config(limit=5), EvalConfig(size=7), 0)
        assert len(limited.train) == 5
        assert limited.held_out == trained.held_out

    @pytest.mark.parametrize("size", [0, 1, 2, 100])
    def test_nothing_of_a_source_of_its_own_is_trained_on(self, tmp_path, size) -> None:
        train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
        write(train, [{"prompt": f"q {i}", "answer": i} for i in range(10)])
        write(test, [{"prompt": f"  q   {i}", "answer": i} for i in range(8, 12)])
        evaluation = EvalConfig(source=str(test), size=size)
        found = load_prompts(config(source=str(train), limit=9), evaluation, 0)
        assert [p.text for p in found.train] == [f"q {i}" for i in range(8)]
        assert found.left_out == 2  # q 8 and q 9
        assert len(found.held_out) == min(size, 4)
        if size:
            alone = load_held_out(config(source="no.jsonl"), evaluation, 0)
            assert alone == PromptSet((), found.held_out)

    def test_test_prompts_are_others(self, tmp_path) -> None:
        """The next in order: neither they nor other wordings of them are held out or trained on."""
        rows = [{"prompt": f"q  {i % 30}" + " " * (i // 30), "answer": i} for i in range(60)]
        write(tmp_path / "rows.jsonl", rows)
        source, plain = config(source=str(tmp_path / "rows.jsonl")), EvalConfig(size=8)
        evaluation = EvalConfig(size=8, patience=2, test_size=12)
        found = load_prompts(source, evaluation, 0)
        assert found.held_out == load_prompts(source, plain, 0).held_out
        assert [len(part) for part in (found.train, found.held_out, found.test)] == [20, 8, 12]
        parts = [{family(p) for p in part} for part in (found.train, found.held_out, found.test)]
        assert [len(part) for part in parts] == [10, 8, 12]
        assert len(set.union(*parts)) == 30
        assert load_held_out(source, evaluation, 0) == PromptSet((), found.held_out, found.test)
        # a file has samples of some: they and their other wordings are no test prompts
        seen = [p.text for p in found.test[:3]]
        fewer = load_held_out(source, evaluation, 0, seen)
        assert len(fewer.test) == 12
        assert not {family(p) for p in fewer.test} & {family(p) for p in found.test[:3]}

    def test_test_prompts_of_a_source_of_its_own(self, tmp_path) -> None:
        write(tmp_path / "train.jsonl", [{"prompt": f"q {i}"} for i in range(10)])
        write(tmp_path / "test.jsonl", [{"prompt": f"q  {i % 9}"} for i in range(12)])
        for size, expected in ((6, 3), (12, 0)):
            evaluation = EvalConfig(source=str(tmp_path / "test.jsonl"), size=size, patience=1)
            evaluation = evaluation.model_copy(update={"test_size": 9})
            found = load_prompts(config(source=str(tmp_path / "train.jsonl")), evaluation, 0)
            held_out = {family(p) for p in found.held_out}
            assert len(found.test) == 9 - len(held_out)
            assert len(found.test) >= expected
            assert not held_out & {family(p) for p in found.test}
            assert [p.text for p in found.train] == ["q 9"]

    def test_as_many_test_prompts_as_held_out_ones_with_patience(self) -> None:
        assert EvalConfig(patience=2).sizes(9000) == (512, 512)
        assert EvalConfig(size=7, patience=2).test_size == 7
        assert EvalConfig(size=7, patience=2, test_size=0).test_size == 0

    def test_too_many_held_out(self, tmp_path) -> None:
        path = tmp_path / "rows.jsonl"
        write(path, [{"prompt": f"q {i}"} for i in range(10)])
        with pytest.raises(
            UserError, match=r"^eval\.size: it holds out .* leaves none to train on; lower"
        ):
            load_prompts(config(source=str(path)), EvalConfig(size=10), 0)
        with pytest.raises(
            UserError, match=r"^eval\.test_size: eval.size and it hold out 10 of 10"
        ):
            load_prompts(config(source=str(path)), EvalConfig(size=6, patience=1), 0)
        with pytest.raises(
            UserError, match=r"^eval\.source: every prompt of .* leave it out to hold"
        ):
            load_prompts(config(source=str(path)), EvalConfig(source=str(path), size=1), 0)
        with pytest.raises(UserError, match=r"^eval\.size: it is 0, so there is nothing to"):
            load_held_out(config(), EvalConfig(size=0), 0)
        assert len(load_prompts(config(source=str(path)), EvalConfig(size=0), 0).train) == 10


class TestTake:
    @settings(max_examples=60)
    @given(size=st.integers(1, 30), count=st.integers(1, 40), seed=st.integers(0, 2**60))
    def test_each_pass_is_a_permutation(self, size, count, seed) -> None:
        prompts = tuple(Prompt(str(i), f"q {i}") for i in range(size))
        found = PromptSet(prompts, ())
        steps = 3 * size // count + 2
        taken = [
            p
            for step in range(steps)
            for p in found.between(step * count, (step + 1) * count, seed)
        ]
        assert len(taken) == steps * count
        for start in range(0, len(taken) - size + 1, size):
            assert sorted(taken[start : start + size], key=prompts.index) == list(prompts)

    def test_it_depends_on_its_arguments_alone(self) -> None:
        found = PromptSet(tuple(Prompt(str(i), f"q {i}") for i in range(50)), ())
        forwards = [found.between(step * 16, step * 16 + 16, 3) for step in range(20)]
        backwards = [found.between(step * 16, step * 16 + 16, 3) for step in reversed(range(20))]
        assert forwards == backwards[::-1]
        assert forwards[0] != found.between(0, 16, 4)
        taken = [prompt for step in forwards for prompt in step]
        assert taken[:50] != taken[50:100] != taken[100:150]  # each pass in its own order


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


class TestFiles:
    ROWS = (
        {"q": "2 + 2?", "a": 4, "level": "easy", "id": "x7"},
        {"q": "Größe 😀?", "a": None, "level": "hard", "id": None},
    )

    @pytest.mark.parametrize("kind", ["jsonl", "parquet"])
    def test_rows_become_prompts(self, kind, tmp_path) -> None:
        path = tmp_path / f"rows.{kind}"
        columns = {"prompt_column": "q", "answer_column": "a", "difficulty_column": "level"}
        if kind == "jsonl":
            lines = [json.dumps(row, ensure_ascii=i % 2 == 0) for i, row in enumerate(self.ROWS)]
            path.write_text("\ufeff" + "\n\n  \n".join(lines), encoding="utf-8")
        else:
            pq.write_table(pa.Table.from_pylist(list(self.ROWS)), path)
        first, second = read(config(source=str(path), **columns), 0)
        assert first == Prompt("x7", "2 + 2?", "4", "easy", data=self.ROWS[0])
        assert second == Prompt("1", "Größe 😀?", None, "hard", data=self.ROWS[1])

    def test_an_answer_column_that_nobody_named_need_not_be_there(self) -> None:
        rows = [{"prompt": "Tell me a story."}]
        assert from_rows(rows, config())[0].answer is None
        # a run folder names every setting, also those that nobody had named
        assert from_rows(rows, config(answer_column="answer"))[0].answer is None
        with pytest.raises(
            UserError, match=r"^prompts\.answer_column: row 1 of .* no column 'sol'"
        ):
            from_rows(rows, config(answer_column="sol"))

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (
                b'{"prompt": "a"}\n\n{"prompt": }\n',
                "line 3 is not a JSON object: Expecting value, c",
            ),
            (b'{"prompt": "a"}\n[1]\n', "line 2 is not a JSON object: [1]"),
            (b'{"prompt": "a"', "line 1 is not a JSON object: Expecting ',' delimiter, column 15"),
            (
                b'{"prompt": "a", "prompt": "b"}',
                "line 1 is not a JSON object: it has two keys 'prom",
            ),
            (
                b'{"prompt": "\\ud83d"}',
                "line 1 is not a JSON object: it has half a character, '\\u",
            ),
            (
                b'{"a": 1}\n{"a": -' + b"9" * 5000 + b"}",
                "line 2 has a number of 5000 digits; write it as text, in quotes",
            ),
            (b"[" * 100_000, "line 1 is not a JSON object: maximum recursion depth"),
            (b"\x89PNG\r\n\x1a\n\xff\xfe", "is not text in UTF-8"),
            (b"", "holds no prompts"),
            (b"\n \n\n", "holds no prompts"),
            (b'{"prompt": ""}', "row 1 of '{path}' has an empty prompt"),
            (b'{"prompt": "a"}\n{"prompt": " \\n"}', "row 2 of '{path}' has an empty prompt"),
            (b'{"prompt": null}', "row 1 of '{path}' has an empty prompt"),
        ],
    )
    def test_what_cannot_be_read_is_one_line_with_its_place(self, data, message, tmp_path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            read(config(source=str(path)), 0)
        said = str(caught.value)
        assert said.startswith("prompts.source: ")
        assert message.format(path=path) in said
        assert "\n" not in said

    def test_a_whole_character_written_in_two_halves(self, tmp_path) -> None:
        path = write(tmp_path / "rows.jsonl", [{"prompt": "😀 \\ud800"}])
        assert "\\ud83d" in Path(path).read_text()
        assert read(config(source=path), 0)[0].text == "😀 \\ud800"

    @pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
    def test_what_is_no_file(self, name, tmp_path, monkeypatch) -> None:
        field = "eval.source"
        reader = read_jsonl if name.endswith("jsonl") else read_parquet
        path = tmp_path / name
        with pytest.raises(UserError, match=rf"^eval\.source: no file {re.escape(str(path))}$"):
            reader(str(path), field)
        path.mkdir()
        with pytest.raises(UserError, match=r"^eval\.source: .* is a folder; name one file in it$"):
            reader(str(path), field)
        with pytest.raises(UserError, match=r"^eval\.source: cannot read xxx.*File name too long"):
            reader("x" * 300 + name, field)
        with pytest.raises(UserError, match=r"^eval\.source: cannot read ~nobody-here/"):
            reader(f"~nobody-here/{name}", field)

    @pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
    def test_a_file_closed_to_us(self, name, tmp_path, monkeypatch) -> None:
        path = tmp_path / name
        path.write_bytes(b"")

        def closed(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", closed)
        monkeypatch.setattr(pq, "ParquetFile", closed)
        with pytest.raises(UserError, match=r"^prompts\.source: cannot read .*Permission denied$"):
            read(config(source=str(path)), 0)
        monkeypatch.setattr(Path, "is_dir", closed)
        with pytest.raises(UserError, match=r"^prompts\.source: cannot read .*Permission denied$"):
            read(config(source=str(path)), 0)

    def test_parquet_that_is_none(self, tmp_path) -> None:
        path = tmp_path / "rows.parquet"
        for data in (b"", b"PAR1 nothing PAR1", b'{"prompt": "a"}'):
            path.write_bytes(data)
            with pytest.raises(UserError, match=r"^prompts\.source: cannot read .* as Parquet: "):
                read(config(source=str(path)), 0)
        pq.write_table(pa.table({"prompt": [str(i) for i in range(9999)]}), path)
        data = bytearray(path.read_bytes())
        data[100:2000] = b"\xff" * 1900
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"^prompts\.source: cannot read .* as Parquet: "):
            read(config(source=str(path)), 0)
        pq.write_table(pa.table([["a"], ["b"]], names=["prompt", "prompt"]), path)
        with pytest.raises(UserError, match=r"has two columns 'prompt'; rename one$"):
            read(config(source=str(path)), 0)
        pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), path)
        with pytest.raises(UserError, match=r"^prompts\.source: .* holds no prompts$"):
            read(config(source=str(path)), 0)

    @pytest.mark.parametrize("source", ["arithmetics", "rows.csv", "hub", "gym"])
    def test_no_kind_of_source(self, source) -> None:
        with pytest.raises(UserError, match=rf"^prompts\.source: unknown source '{source}'; use"):
            read(config(source=source), 0)

    @pytest.mark.parametrize(
        ("setting", "field"),
        [
            ({}, "prompts.prompt_column"),
            ({"prompt_column": "quest", "template": None}, "prompts.prompt_column"),
            ({"template": "{quest}"}, "prompts.template"),
            ({"prompt_column": "question", "answer_column": "x"}, "prompts.answer_column"),
            ({"prompt_column": "question", "difficulty_column": "x"}, "prompts.difficulty_column"),
        ],
    )
    def test_an_unknown_column_is_named_with_the_row(self, setting, field) -> None:
        rows = [{"question": "a", "quest": "b", "x": 1}, {"question": "a"}]
        if "quest" not in str(setting) and "x" not in str(setting):
            rows = rows[1:]
        with pytest.raises(UserError) as caught:
            from_rows(rows, config(source="f.jsonl", **setting))
        said = str(caught.value)
        assert re.match(rf"{re.escape(field)}: row {len(rows)} of 'f.jsonl' has no column", said)
        assert "question" in said


class TestTemplates:
    @pytest.mark.parametrize(
        ("template", "text"),
        [
            ("{q} = ?", "2+2 = ?"),
            ("{q}{q}{n}", "2+22+27"),
            ("{{q}} {{{q}}}", "{q} {2+2}"),
            (r"Put it in \boxed{}: {q}", r"Put it in \boxed{}: 2+2"),
            (r"\frac{1}{2} {q} \text{ and } \sqrt{q}", r"\frac{1}{2} 2+2 \text{ and } \sqrt2+2"),
            (r"\sqrt{{q}}", r"\sqrt{q}"),
            ("{", "{"),
            ("a}b{c d}", "a}b{c d}"),
            ("{braces}", "{q}"),
            ("", ""),
        ],
    )
    def test_columns_and_braces(self, template, text) -> None:
        assert fill(template, {"q": "2+2", "n": 7, "braces": "{q}"}) == text

    def test_what_is_not_there(self) -> None:
        with pytest.raises(RowError, match="has no column 'qq'"):
            fill("{qq}", {"q": 1})
        with pytest.raises(
            UserError, match=r"^prompts\.template: row 1 of .* nothing in column 'q'"
        ):
            from_rows([{"q": None}], config(template="{q}"))

    @pytest.mark.parametrize(
        ("template", "hint"),
        [
            ("Solve it.", "write {column} where the text of a column goes"),
            (" .", "write {column} where"),
            (r"\boxed{} {1}", "write {column} where"),
            ("Solve: {{q}}", "write {q}: doubled braces are braces"),
        ],
    )
    @pytest.mark.parametrize("source", ["rows.jsonl", "arithmetic", "gym:leg_counting", "hub:a/b"])
    def test_a_template_that_fills_in_nothing(self, source, template, hint) -> None:
        with pytest.raises(UserError) as caught:
            read(config(source=source, template=template), 0)
        said = str(caught.value)
        assert said.startswith("prompts.template: it fills in no column, so that all prompts would")
        assert f"; {hint}" in said

    def test_prompts_that_are_one_text_with_different_answers(self) -> None:
        rows = [{"q": "a", "answer": "1"}, {"q": "b", "answer": "2"}, {"q": "c", "answer": "1"}]
        unit = [{**row, "unit": "cm"} for row in rows]
        (said,) = clashes(from_rows(unit, config(template="How many {unit}?")))
        assert said.startswith("3 prompts are only 1 to the model, with different answers: '")
        assert "'1' ('2')" in said
        assert clashes(from_rows(rows, config(template="{q}"))) == []
        assert clashes(from_rows(rows[::2], config(template="x{answer}"))) == []

    @given(st.text(alphabet="{}qx "))
    def test_no_template_breaks(self, template) -> None:
        with contextlib.suppress(RowError):
            assert "{q}" not in fill(template, {"q": "2", "x": "3"}) or "{{" in template


class TestConversations:
    TURNS = (
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "2 + 2?"},
    )

    @pytest.mark.parametrize("kind", ["jsonl", "parquet"])
    def test_a_column_of_messages(self, kind, tmp_path) -> None:
        path = tmp_path / f"rows.{kind}"
        rows = [{"prompt": list(self.TURNS), "answer": "4"}]
        if kind == "jsonl":
            write(path, rows)
        else:
            pq.write_table(pa.Table.from_pylist(rows), path)
        (prompt,) = read(config(source=str(path)), 0)
        assert prompt.messages == self.TURNS
        assert (prompt.text, prompt.answer) == ("2 + 2?", "4")

    def test_two_conversations_that_end_alike_are_two_families(self) -> None:
        other = [{"role": "user", "content": "Go on"}, *self.TURNS[1:]]
        first, second = from_rows([{"prompt": list(self.TURNS)}, {"prompt": other}], config())
        assert first.text == second.text
        assert family(first) != family(second)
        alone, plain = from_rows(
            [{"prompt": list(self.TURNS[2:])}, {"prompt": "2 +  2?"}], config()
        )
        assert family(alone) == family(plain)

    CALL = {"type": "function", "function": {"name": "f", "arguments": {"city": "X"}}}  # noqa: RUF012

    @pytest.mark.parametrize("kind", ["jsonl", "parquet"])
    def test_nothing_that_a_message_says_is_lost(self, kind, tmp_path) -> None:
        """In Parquet every message has every key, null where it had none."""
        turns = [
            {"role": "user", "content": "warm?"},
            {"role": "assistant", "content": None, "tool_calls": [self.CALL]},
            {"role": "tool", "content": "12 C", "name": "f", "tool_call_id": "1"},
        ]
        path = tmp_path / f"rows.{kind}"
        if kind == "jsonl":
            write(path, [{"prompt": turns}])
        else:
            other = {"function": {"name": "g", "arguments": {"day": 3}}}
            more = [{"role": "assistant", "content": "", "tool_calls": [other]}, turns[0]]
            pq.write_table(pa.Table.from_pylist([{"prompt": turns}, {"prompt": more}]), path)
            assert read(config(source=str(path)), 0)[1].messages[0]["tool_calls"] == [other]
        prompt = read(config(source=str(path)), 0)[0]
        assert prompt.messages == (turns[0], {**turns[1], "content": ""}, turns[2])
        assert prompt.text == "12 C"

    def test_conversations_with_other_calls_are_other_families(self) -> None:
        def asked(name: str) -> list[dict[str, object]]:
            call = {"role": "assistant", "tool_calls": [{"function": {"name": name}}]}
            return [call, {"role": "tool", "content": "12 C"}]

        one, other = from_rows([{"prompt": asked("f")}, {"prompt": asked("g")}], config())
        assert family(one) != family(other)

    def test_sharegpt(self) -> None:
        turns = [{"from": "human", "value": "Hi"}]
        (prompt,) = from_rows([{"conversations": turns}], config(prompt_column="conversations"))
        assert prompt.messages == ({"role": "user", "content": "Hi"},)

    def test_text_sent_through_the_chat_template(self) -> None:
        (prompt,) = from_rows([{"prompt": "Hi"}], config(chat=True))
        assert prompt.messages == ({"role": "user", "content": "Hi"},)
        (prompt,) = from_rows([{"q": "Hi"}], config(chat=True, template="{q}!", system="Be kind."))
        assert [m["content"] for m in prompt.messages] == ["Be kind.", "Hi!"]
        assert from_rows([{"prompt": "Hi"}], config())[0].messages is None

    def test_a_system_message_comes_first_and_once(self) -> None:
        with_system = config(chat=True, system="Be kind.")
        (prompt,) = from_rows([{"prompt": list(self.TURNS)}], with_system)
        assert [m["role"] for m in prompt.messages] == ["system", "user", "assistant", "user"]
        own = [{"role": "system", "content": "x"}, *self.TURNS]
        with pytest.raises(
            UserError, match=r"^prompts\.system: row 1 of .* of its own \(turn 1\); leave"
        ):
            from_rows([{"prompt": own}], with_system)
        assert from_rows([{"prompt": own}], config())[0].messages == tuple(own)

    @pytest.mark.parametrize(
        ("turns", "message"),
        [
            ([], "has an empty conversation"),
            (["Hello"], "has a turn 1 that is 'Hello', not an object with the keys 'role' and"),
            ([TURNS[0], {"role": "user"}], "has a turn 2 without the key 'content'"),
            (list(TURNS[:2]), "ends with the assistant's turn (2); a prompt must end with the use"),
            (
                '[{"role": "user", "content": "Hello"}]',
                "has a conversation in column 'prompt' that is written as a string; write it as a",
            ),
            ({"role": "user"}, "has {'role': 'user'} in column 'prompt'; it must be a string or"),
        ],
    )
    def test_what_is_no_conversation(self, turns, message) -> None:
        with pytest.raises(UserError) as caught:
            from_rows([{"prompt": "ok"}, {"prompt": turns}], config(source="f"))
        said = str(caught.value)
        assert said.startswith("prompts.prompt_column: row 2 of 'f' ")
        assert message in said

    def test_an_empty_last_message_is_an_empty_prompt(self) -> None:
        with pytest.raises(UserError, match=r"^prompts\.source: row 1 of 'f' has an empty prompt"):
            from_rows([{"prompt": [{"role": "user", "content": " "}]}], config(source="f"))


class TestGym:
    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("reasoning_gym")

    def test_a_task(self) -> None:
        made = read(config(source="gym:leg_counting", size=20), 3)
        assert made == read(config(source="gym:leg_counting", size=20), 3)
        assert made != read(config(source="gym:leg_counting", size=20), 4)
        assert len(made) == 20
        assert len({p.id for p in made}) == 20
        for prompt in made:
            assert prompt.text == prompt.data["entry"]["question"]
            assert prompt.answer == prompt.data["entry"]["answer"]
            assert (prompt.data["gym"], prompt.difficulty) == ("leg_counting", "leg_counting")
            assert prompt.messages is None

    def test_template_and_chat(self) -> None:
        asked = config(source="gym:leg_counting", size=1, template="Q: {question}", chat=True)
        (prompt,) = read(asked, 0)
        assert prompt.text == "Q: " + prompt.data["entry"]["question"]
        assert prompt.messages == ({"role": "user", "content": prompt.text},)
        assert family(prompt) == " ".join(prompt.data["entry"]["question"].split())

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("gym:leg_countin", "unknown gym task 'leg_countin'; did you mean 'leg_counting'?"),
            ("gym:", "unknown gym task ''; available: "),
            ("gym:composite", "cannot make the gym task 'composite': Must specify at least one"),
        ],
    )
    def test_no_such_task(self, source, message) -> None:
        with pytest.raises(UserError) as caught:
            load_held_out(config(), EvalConfig(source=source), 0)
        said = str(caught.value)
        assert said.startswith(f"eval.source: {message}")
        assert len(said) < 500

    def test_a_column_that_gym_tasks_do_not_have(self) -> None:
        with pytest.raises(
            UserError, match=r"^prompts\.template: gym task .* no column 'q'; available"
        ):
            read(config(source="gym:leg_counting", template="{q}"), 0)

    def test_without_the_library(self, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "reasoning_gym", None)
        with pytest.raises(
            UserError, match=r"^prompts\.source: gym tasks need .*pip install .*gym"
        ):
            read(config(source="gym:leg_counting"), 0)


class TestHub:
    @pytest.fixture
    def hub(self, monkeypatch) -> SimpleNamespace:
        """Stands for the `datasets` library; remembers what it was asked for."""
        asked = SimpleNamespace(calls=[], error=None)

        def load_dataset(name, config, *, split):
            asked.calls.append((name, config, split))
            if asked.error:
                raise asked.error
            return iter([{"question": "1 + 1", "answer": "2"}])

        library = ModuleType("datasets")
        library.load_dataset = load_dataset
        monkeypatch.setitem(sys.modules, "datasets", library)
        return asked

    @pytest.mark.parametrize(
        ("source", "name", "part"),
        [("hub:openai/gsm8k:main", "openai/gsm8k", "main"), ("hub:a/b", "a/b", None)],
    )
    def test_name_config_and_split(self, hub, source, name, part) -> None:
        asked = config(source=source, split="test", prompt_column="question")
        (prompt,) = read(asked, 0)
        assert (prompt.text, prompt.answer) == ("1 + 1", "2")
        assert hub.calls == [(name, part, "test")]

    def test_nulls_in_a_call_are_other_rows_keys(self, hub, monkeypatch) -> None:
        call = {"function": {"name": "f", "arguments": {"city": "X", "day": None}}}
        turns = [{"role": "assistant", "content": None, "tool_calls": [call]}]
        turns.append({"role": "tool", "content": "12 C", "tool_calls": None})
        monkeypatch.setattr(
            sys.modules["datasets"], "load_dataset", lambda *_, **__: [{"prompt": turns}]
        )
        (prompt,) = read(config(source="hub:a/b"), 0)
        left = {"function": {"name": "f", "arguments": {"city": "X"}}}
        assert prompt.messages[0]["tool_calls"] == [left]
        assert prompt.messages[1] == {"role": "tool", "content": "12 C"}

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (ValueError('Unknown split "tset".\nShould be one of'), 'Unknown split "tset".'),
            (FileNotFoundError("Dataset 'a/b' doesn't exist"), "Dataset 'a/b' doesn't exist"),
            (ConnectionError(), "ConnectionError"),
        ],
    )
    def test_what_the_hub_does_not_have(self, hub, error, reason) -> None:
        hub.error = error
        with pytest.raises(UserError) as caught:
            read_hub("hub:a/b", "tset", "eval.source")
        assert str(caught.value) == f"eval.source: cannot load 'hub:a/b' (tset): {reason}"

    @pytest.mark.parametrize("there", [None, ModuleType("datasets")], ids=["missing", "a folder"])
    def test_without_the_library(self, monkeypatch, there) -> None:
        monkeypatch.setitem(sys.modules, "datasets", there)
        with pytest.raises(UserError, match=r"^prompts\.source: hub .* pip install '\.\[hub"):
            read(config(source="hub:a/b"), 0)


@pytest.mark.parametrize(("families", "held_out"), [(4, 1), (10, 2), (40, 8), (2559, 511)])
def test_a_fifth_of_a_small_source_is_held_out(tmp_path, families, held_out):
    """Of what differs in more than its wording; more only where it is asked for."""
    path = tmp_path / "small.jsonl"
    rows = [{"prompt": f"{n}?{' ' * w}", "answer": "1"} for n in range(families) for w in range(2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = PromptsConfig(source=str(path))
    found = load_prompts(source, EvalConfig(), 0)
    assert (len(found.train), len(found.held_out)) == (2 * (families - held_out), held_out)
    assert load_held_out(source, EvalConfig(), 0).held_out == found.held_out
    half = load_prompts(source, EvalConfig(size=families // 2), 0)
    assert len(half.held_out) == families // 2
    assert half.held_out[:held_out] == found.held_out
    stopping = load_prompts(source, EvalConfig(patience=2), 0)
    assert (len(stopping.held_out), len(stopping.test)) == (held_out, held_out)
    assert len(load_held_out(source, EvalConfig(source=str(path)), 0).held_out) == min(
        512, 2 * families
    )


def test_rows_of_one_prompt_are_told_as_such(tmp_path):
    rows = write(tmp_path / "p.jsonl", [{"prompt": "1 + 1 =", "answer": "2"}] * 5)
    with pytest.raises(UserError) as caught:
        load_prompts(config(source=rows), EvalConfig(), 0)
    assert str(caught.value) == (
        "prompts: all 5 rows have the same prompt ('1 + 1 ='), so none is left to train on where "
        "it is held out; give it others, or set eval.size = 0"
    )


def test_a_size_that_is_more_than_there_are_is_told(tmp_path):
    rows = write(tmp_path / "p.jsonl", [{"prompt": f"{n} =", "answer": "2"} for n in range(40)])
    with pytest.raises(UserError, match=r"out 40 of 40 prompts \(50 are asked for\) and leaves"):
        load_prompts(config(source=rows), EvalConfig(size=50), 0)


def test_nan_is_as_good_as_null() -> None:
    """It is how pandas writes what is missing in a column of numbers: no label, no id, no text."""
    nan = float("nan")
    named = config(difficulty_column="level")
    labels = (None, nan, 0, 3, "hard")
    rows = [{"prompt": str(number), "level": label} for number, label in enumerate(labels)]
    assert [p.difficulty for p in from_rows(rows, named)] == [None, None, "0", "3", "hard"]
    ids = [{"prompt": "x", "id": name} for name in (None, nan, 7)]
    assert [p.id for p in from_rows(ids, config())] == ["0", "1", "7"]
    talk = {"prompt": [{"role": "user", "content": "x"}], "tools": nan}
    (asked,) = from_rows([talk], config())
    assert tools_of(asked.data) is None
    with pytest.raises(UserError, match="has an empty prompt"):
        from_rows([{"prompt": nan}], config())
    with pytest.raises(UserError, match="has nothing in column 'a'"):
        from_rows([{"a": nan}], config(template="{a}?"))
