"""A sequence classifier as a reward, against its own modules called by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import processors
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from tests import tiny
from winnow.engines.reward_models.model import Encoder, RewardModel, batches, read
from winnow.errors import UserError, WinnowError
from winnow.rewards.factory import make_reward
from winnow.types import Prompt

CPU = torch.device("cpu")
CHAT = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}"


def save_judge(folder: Path, labels: int = 1, **changes) -> Path:
    """A small random Llama with a head whose logits spread."""
    torch.manual_seed(3)
    settings = {
        "vocab_size": len(tiny.tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "eos_token_id": 0,
        "bos_token_id": None,
    }
    config = LlamaConfig(**{**settings, **changes}, num_labels=labels)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_judge(tmp_path_factory.mktemp("judge") / "model")


def judge(folder: Path, **options) -> RewardModel:
    return RewardModel(str(folder), device=CPU, **options)


def item(text: str, prompt: str = "") -> tuple[Prompt, str]:
    return Prompt(id=prompt + text, text=prompt), text


def values(reward: RewardModel, texts) -> list[float]:
    scores = reward.score([item(text) for text in texts])
    assert not [score.error for score in scores if score.error]
    return [score.value for score in scores]


def at_last_token(folder: Path, *texts: str, label: int = 0) -> list[float]:
    """Logits from the trunk's last hidden state: nobody's pooling, no padding."""
    net = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    words = tiny.tokenizer()
    with torch.no_grad():
        states = [net.model(torch.tensor([words.encode(t)])).last_hidden_state for t in texts]
        return [net.score(state[0, -1])[label].item() for state in states]


def every_ending() -> list[str]:
    """Texts of many lengths that between them end in every token, end-of-sequence included."""
    words = tiny.tokenizer()
    ends = [words.decode([i]) for i in range(len(words))]
    ends[1] = "?"  # no character of the tokenizer's
    return [
        "3+4=" * (i % 7) + middle + end for i, end in enumerate(ends) for middle in ("", "12<end>")
    ]


@pytest.mark.parametrize("padding", [0, 1, None, -1], ids=["end", "other", "none", "no token"])
@pytest.mark.parametrize("batch_tokens", [1, 64, 10**6])
def test_each_text_is_read_at_its_own_last_token(tmp_path, padding, batch_tokens):
    folder = save_judge(tmp_path / "model", pad_token_id=padding)
    texts = every_ending()
    assert {tiny.tokenizer().encode(text)[-1] for text in texts} == set(range(47))
    got = values(judge(folder, batch_tokens=batch_tokens), texts)
    assert got == pytest.approx(at_last_token(folder, *texts), abs=1e-4)
    assert max(got) - min(got) > 1


@pytest.mark.parametrize("kind", ["roberta", "gpt2"])
def test_other_architectures_read_a_batch_as_they_read_one_text(tmp_path, kind):
    torch.manual_seed(0)
    size = len(tiny.tokenizer())
    if kind == "roberta":  # positions are counted from the padding, and begin after it
        net = RobertaForSequenceClassification(
            RobertaConfig(
                vocab_size=size,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=40,
                pad_token_id=0,
                num_labels=1,
                initializer_range=0.3,
            )
        )
    else:  # names no padding
        net = GPT2ForSequenceClassification(
            GPT2Config(
                vocab_size=size, n_embd=32, n_layer=2, n_head=2, num_labels=1, n_positions=40,
                initializer_range=0.3,
            )
        )  # fmt: skip
    net.eval().save_pretrained(tmp_path)
    words = tiny.tokenizer()
    words.model_max_length = 39
    words.save_pretrained(tmp_path)
    texts = ["a", "1+1=2", "1+1=3", "ten is one more than nine, no"]
    got = values(judge(tmp_path), texts)
    with torch.no_grad():
        alone = [net(input_ids=torch.tensor([words.encode(t)])).logits.item() for t in texts]
    assert got == pytest.approx(alone, abs=1e-4)
    assert len({round(value, 3) for value in got}) == len(texts)
    assert judge(tmp_path).score([item("a" * 40)])[0].error is not None


def test_the_text_is_the_prompt_with_the_completion_right_after_it(folder):
    score = judge(folder).score([item("4", prompt="2+2=")])[0]
    assert score.value == pytest.approx(at_last_token(folder, "2+2=4")[0], abs=1e-4)


def test_equal_texts_are_read_once_and_dealt_out_in_order(folder):
    reward = judge(folder)
    read_rows = []
    reward._model.register_forward_pre_hook(
        lambda module, args, given: read_rows.extend(given["input_ids"].tolist()),
        with_kwargs=True,
    )
    texts = ["12", "7", "12", "12", "7", "9"]
    scores = reward.score([*map(item, texts), item("2", prompt="1")])  # that is 12 once more
    assert len(read_rows) == 3
    alone = dict(zip(texts, at_last_token(folder, *texts), strict=True))
    assert [s.value for s in scores] == pytest.approx(
        [*map(alone.get, texts), alone["12"]], abs=1e-4
    )
    assert reward.score([]) == []


def test_batches_hold_their_tokens_and_no_more_than_need_be():
    texts = ["a" * n for n in (3, 9, 3, 1, 30, 2, 8, 3)]
    made = list(batches(texts, len, 18, most=3))
    assert [[len(text) for text in batch] for batch in made] == [[30], [9, 8], [3, 3, 3], [2, 1]]
    assert list(batches([], len, 18, most=3)) == []


def test_reading_leaves_the_models_settings_alone(folder):
    reward = judge(folder)
    before = reward._model.config.to_dict()
    values(reward, ["1", "22", "a<end>"])
    assert reward._model.config.to_dict() == before


def test_gradients_flow_through_the_same_reading(folder):
    net = AutoModelForSequenceClassification.from_pretrained(folder)
    read(net, [(5, 6), (7,)]).sum().backward()
    assert net.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


def test_of_several_labels_one_is_named(tmp_path):
    names = {0: "bad", 1: "fair", 2: "good"}
    folder = save_judge(tmp_path / "model", labels=3, id2label=names)
    with pytest.raises(UserError, match=r"has 3 labels; .*: 0 bad, 1 fair, 2 good$") as caught:
        judge(folder)
    assert "\n" not in str(caught.value)
    expected = at_last_token(folder, "1+1=2", label=2)
    for label in ("good", 2):
        got = values(judge(folder, label=label), ["1+1=2"])
        assert got == pytest.approx(expected, abs=1e-4)
    for label in ("great", 3, -1, True):
        with pytest.raises(UserError, match="no label"):
            judge(folder, label=label)


def test_one_label_may_be_named(folder):
    texts = ["1", "2"]
    assert values(judge(folder, label=0), texts) == values(judge(folder, label="LABEL_0"), texts)


def test_a_causal_language_model_is_refused(tmp_path):
    tiny.model().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"^reward\.model: .* is not a reward model: .* score.weight"
    ) as e:
        judge(tmp_path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("what", ["score.weight", "model.layers.1.mlp.up_proj.weight", "shape"])
def test_weights_that_are_not_in_the_file_are_refused(tmp_path, what):
    folder = save_judge(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    if what == "shape":
        weights["score.weight"] = torch.zeros(2, 32)
    else:
        del weights[what]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="is not a reward model") as caught:
        judge(folder)
    assert ("score.weight" if what == "shape" else what) in str(caught.value)


def test_what_cannot_be_loaded_is_said_in_a_line(tmp_path):
    folder = save_judge(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"\x00" * 50)
    (folder / "some.gguf").write_bytes(b"\x00" * 50)
    for name, reason in (
        (folder, "cannot load"),
        (tmp_path / "nowhere", "is not a folder"),
        (folder / "some.gguf", "GGUF files have no head"),
    ):
        with pytest.raises(UserError, match=rf"^judge: .*{reason}") as caught:
            judge(name, field="judge")
        assert "\n" not in str(caught.value)


def test_what_the_model_cannot_read_is_that_samples_error(folder):
    fits, too_long, empty = "1" * 64, "1" * 65, ""
    first, second, third, fourth = judge(folder).score(
        [item(t) for t in (too_long, fits, empty, "1")]
    )
    assert first.error == "65 tokens, more than the reward model's context of 64"
    assert second.value == pytest.approx(at_last_token(folder, fits)[0], abs=1e-4)
    assert third.error == "the text has no tokens"
    assert fourth.value == pytest.approx(at_last_token(folder, "1")[0], abs=1e-4)


def test_what_is_no_finite_number_is_that_samples_error(tmp_path):
    folder = save_judge(tmp_path / "model")
    made = judge(folder)
    with torch.no_grad():
        words = made._model.get_input_embeddings().weight
        words[tiny.tokenizer().encode("x")[0]] = float("nan")
    bad, good = made.score([item("1x"), item("12")])
    assert bad.error == "the reward model returned nan"
    assert good.value == pytest.approx(at_last_token(folder, "12")[0], abs=1e-4)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    folder = save_judge(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"^reward\.model: .*: 3 of \d+ weights of model\.norm"):
        judge(folder).score([item("1")])


def test_a_text_that_begins_with_the_first_token_has_it_once():
    words = tiny.tokenizer()
    words.add_special_tokens({"bos_token": "<s>"})
    words._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", words.bos_token_id)]
    )
    encoder = Encoder(words, tiny.model().config, "reward.model")
    assert encoder([item("1", prompt="<s>2")]) == encoder([item("1", prompt="2")])


def test_a_text_that_is_scored_ends_as_its_tokenizer_ends_it():
    """RoBERTa's with </s>, some others' with the token that they were trained to judge at."""
    words = tiny.tokenizer()
    words._tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {tiny.PAD_AND_END}", special_tokens=[(tiny.PAD_AND_END, words.eos_token_id)]
    )
    encoder = Encoder(words, tiny.model().config, "reward.model")
    assert encoder([item("1", prompt="2")]) == [(*tiny.tokenizer().encode("21"), 0)]


def conversation(*contents: str) -> Prompt:
    messages = tuple({"role": "user", "content": content} for content in contents)
    return Prompt(id=str(contents), text=contents[-1], messages=messages)


def with_template(folder: Path, template: str) -> Path:
    words = tiny.tokenizer()
    words.chat_template = template
    words.save_pretrained(folder)
    return folder


def test_a_conversation_goes_through_the_chat_template(tmp_path):
    folder = with_template(save_judge(tmp_path / "model"), CHAT)
    scores = judge(folder).score([(conversation("1+1", "so"), "2"), item("2", prompt="so")])
    assert scores[0].value == pytest.approx(
        at_last_token(folder, "u:1+1\nu:so\na:2\n")[0], abs=1e-5
    )
    assert scores[1].value == pytest.approx(at_last_token(folder, "so2")[0], abs=1e-4)


def test_a_conversation_that_the_template_refuses_is_that_samples_error(tmp_path):
    refuses = "{% if messages|length > 2 %}{{ raise_exception('too many') }}{% endif %}" + CHAT
    folder = with_template(save_judge(tmp_path / "model"), refuses)
    bad, good = judge(folder).score([(conversation("a", "b"), "2"), (conversation("a"), "2")])
    assert bad.error == "the reward model's chat template refuses it: too many"
    assert good.value is not None


def test_a_conversation_without_a_chat_template_is_the_users_fault(folder):
    with pytest.raises(UserError, match=r"^reward\.model: .*no chat template"):
        judge(folder).score([(conversation("1+1"), "2")])


def test_it_is_a_reward_and_can_be_closed_twice(folder):
    reward = judge(folder)
    assert make_reward(reward) is reward
    assert reward.name == str(folder)
    reward.close()
    reward.close()
    with pytest.raises(WinnowError, match="closed"):
        reward.score([item("1")])


def test_bfloat16(folder):
    texts = ["1+1=2", "12"]
    exact, rough = values(judge(folder), texts), values(judge(folder, dtype="bfloat16"), texts)
    assert rough == pytest.approx(exact, rel=0.1, abs=0.1)
    assert rough != exact
