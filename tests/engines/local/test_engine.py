"""The local sampler and learner: what is sampled, what is recorded, and that both agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, Gemma2Config

from tests import local, tiny
from tests.engines.models.architectures import build
from tests.kills import full_disk
from winnow.algorithms.denominators import SampleMeans
from winnow.algorithms.losses import NLL, Clipped
from winnow.algorithms.objective import Term
from winnow.config.schema.optimizer import OptimizerConfig
from winnow.config.schema.sampling import SamplingConfig
from winnow.engines import devices
from winnow.engines.base import Request, SamplingParams
from winnow.engines.devices import Processor
from winnow.engines.factory import check_prompts
from winnow.engines.learning.optimizer import learning_rate
from winnow.engines.local import engine as engine_module
from winnow.engines.local import sampler as sampler_module
from winnow.engines.local.learner import LocalLearner
from winnow.engines.local.policy import LocalPolicy
from winnow.engines.local.sampler import LocalSampler
from winnow.engines.models.forward import Piece, PolicyForward
from winnow.engines.models.loading import load_model, resolve
from winnow.engines.models.reference import EMA
from winnow.engines.models.stopping import Stopper
from winnow.engines.models.tokenization import PromptEncoder
from winnow.errors import UserError, WinnowError
from winnow.rollouts.generate import ask
from winnow.storage.run_folder import RunStore
from winnow.types import Group, Outcome, Prompt, Sample, Score


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    return tiny.rambling()


def requests(prompts: list[str], n: int, params: SamplingParams, seed: int = 0) -> list[Request]:
    return [Request(Prompt(id=p, text=p), n, seed + i, params) for i, p in enumerate(prompts)]


def sample(net, asked, batch=64):
    sampler = LocalSampler(lambda: PolicyForward(net), tiny.tokenizer(), batch)
    sampled = dict(ask(sampler, asked))
    return [sampled[i] for i in range(len(asked))]


PROMPTS = ["1+2=", "a", "what is 3 + 4, and why is it not 5", "2*3=\n7-1="]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("batch", [3, 64])
def test_recorded_logprobs_are_the_learners(net, temperature, batch):
    """Short and long prompts padded on the left; stopped, ended and truncated answers."""
    params = SamplingParams(temperature=temperature, max_tokens=20, stop=("7", "ab"))
    groups = sample(net, requests(PROMPTS, 12, params), batch)
    forward = PolicyForward(net)
    assert forward.shares_prefix
    reasons = set()
    for group in groups:
        piece = Piece(group.prompt_ids, [sample.token_ids for sample in group.samples])
        with torch.no_grad():
            got = forward.logprobs(forward.contexts([piece]), temperature)
        recorded = [x for sample in group.samples for x in sample.logprobs]
        np.testing.assert_allclose(got.numpy(), recorded, atol=1e-4)
        reasons |= {sample.finish_reason for sample in group.samples}
    assert reasons == {"eos", "stop", "length"}


@pytest.mark.parametrize("batch", [3, 64])
def test_at_temperature_0_it_is_greedy_decoding(net, batch) -> None:
    """Token by token that of transformers; all samples of a prompt are one."""
    params = SamplingParams(temperature=0.0, max_tokens=20)
    groups = sample(net, requests([*PROMPTS, "b=", "x, y"], 3, params), batch)
    words = tiny.tokenizer()
    for group in groups:
        ids = torch.tensor([words.encode(group.prompt.text)])
        theirs = net.generate(ids, do_sample=False, max_new_tokens=20, pad_token_id=0)
        expected = tuple(theirs[0, ids.shape[1] :].tolist())
        assert [s.token_ids for s in group.samples] == [expected] * 3
        with torch.no_grad():
            logp = net(input_ids=theirs).logits[0, ids.shape[1] - 1 : -1].log_softmax(-1)
        np.testing.assert_allclose(group.samples[0].logprobs, logp.amax(-1), atol=1e-4)


def test_samples_depend_on_the_seed_alone(net):
    params = SamplingParams(max_tokens=12, stop=("7",))
    together = sample(net, requests(PROMPTS, 5, params))
    apart = [sample(net, [request], batch=2)[0] for request in requests(PROMPTS, 5, params)]
    for one, other in zip(together, apart, strict=True):
        assert [d.token_ids for d in one.samples] == [d.token_ids for d in other.samples]
    other_seed = sample(net, requests(PROMPTS, 5, params, seed=100))
    assert [d.token_ids for d in other_seed[0].samples] != [
        d.token_ids for d in together[0].samples
    ]
    assert len({d.token_ids for d in together[0].samples}) > 1


def test_first_tokens_follow_the_model(net):
    n = 4000
    params = SamplingParams(max_tokens=1)
    (group,) = sample(net, requests(["1+2="], n, params), batch=500)
    ids = torch.tensor([group.prompt_ids])
    expected = net(ids).logits[0, -1].double().softmax(-1).detach().numpy() * n
    counts = np.bincount([d.token_ids[0] for d in group.samples], minlength=len(expected))
    common = expected > 8
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    assert stats.chisquare(observed, wanted).pvalue > 0.001


def test_an_answer_ends_with_its_own_end_token_even_where_that_is_also_padding(net):
    """The end token was sampled: it is in the tokens, with a log-prob, though it equals the pad."""
    params = SamplingParams(max_tokens=40)
    groups = sample(net, requests(PROMPTS, 20, params))
    ended = [d for g in groups for d in g.samples if d.finish_reason == "eos"]
    assert len(ended) > 3
    assert all(d.token_ids[-1] == 0 and 0 not in d.token_ids[:-1] for d in ended)
    assert all(len(d.logprobs) == len(d.token_ids) for d in ended)
    assert all("<end>" not in d.text for d in ended)


def test_several_end_tokens(net):
    net.generation_config.eos_token_id = [0, 5, 9]
    try:
        groups = sample(net, requests(PROMPTS, 20, SamplingParams(max_tokens=40)))
    finally:
        net.generation_config.eos_token_id = 0
    lasts = {d.token_ids[-1] for g in groups for d in g.samples if d.finish_reason == "eos"}
    assert lasts == {0, 5, 9}
    assert not any({0, 5, 9} & set(d.token_ids[:-1]) for g in groups for d in g.samples)


def test_layers_with_windows_keep_their_own_kind_of_cache():
    """Gemma 2 alternates windows and full attention; rows are shared out and dropped in both."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tiny.tokenizer()), hidden_size=32, intermediate_size=48,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        sliding_window=8, max_position_embeddings=128, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    params = SamplingParams(max_tokens=20, stop=("7",))
    groups = sample(model, requests(PROMPTS, 6, params))
    forward = PolicyForward(model)
    for group in groups:
        piece = Piece(group.prompt_ids, [sample.token_ids for sample in group.samples])
        with torch.no_grad():
            got = forward.logprobs(forward.contexts([piece]), 1.0)
        recorded = [x for sample in group.samples for x in sample.logprobs]
        np.testing.assert_allclose(got.numpy(), recorded, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gpt_oss", []),
        ("mamba", ["waiting samples start only", "(linear_attention)"]),
        ("rwkv", ["by reading again all that is before it", "once per sample"]),
    ],
)
def test_a_note_says_what_an_architecture_costs(tmp_path, name, says):
    build(name, torch.float32).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    made = local.engine(tmp_path)
    notes = made.notes()
    assert len(notes) == len(says)
    assert all(part in note for part, note in zip(says, notes, strict=True))
    sampler = made.sampler(SamplingConfig(batch=4))
    ((_, group),) = ask(sampler, requests(["1+2="], 6, SamplingParams(max_tokens=5)))
    for sample, logp in zip(group.samples, made.logprobs([group], 1.0)[0], strict=True):
        assert sum(sample.logprobs) == pytest.approx(logp, abs=1e-5)


def stopper(*stop: str) -> Stopper:
    return Stopper(tiny.tokenizer(), frozenset({0}), stop)


def test_stop_strings_lie_anywhere_in_the_text():
    words = tiny.tokenizer()
    stop = stopper("ab", "\n")
    tokens = words.encode("12a")
    assert stop.reason(tokens, 10) is None
    tokens = words.encode("12ab")
    assert stop.reason(tokens, 10) == "stop"
    assert stop.text(tokens, "stop") == "12"
    assert stop.reason(words.encode("1\n"), 2) == "stop"
    assert stop.reason(words.encode("123"), 3) == "length"
    assert stop.reason([*words.encode("12"), 0], 3) == "eos"
    assert stop.text([*words.encode("12"), 0], "eos") == "12"
    assert stop.ends(words.encode("12ab"), "12") == (1, 2, 2, 2)  # the stop string is not in it
    assert stop.ends([*words.encode("12"), 0], "12") == (1, 2, 2)


def test_a_stop_string_inside_a_longer_token_is_seen():
    """Real vocabularies hold tokens such as '.\\n\\n'; what follows the stop string is cut away."""

    class Words:
        table = ("<end>", "a", "x.\n\ny", "\ufffd")

        def encode(self, text, add_special_tokens):
            return [1]

        def decode(self, ids, **_):
            return "".join(self.table[i] for i in ids)

    stop = Stopper(Words(), frozenset({0}), ("\n",))
    assert stop.reason([1, 2], 9) == "stop"
    assert stop.text([1, 2], "stop") == "ax."
    assert stop.reason([1, 3], 9) is None


def test_no_more_is_decoded_than_may_complete_a_stop_string(monkeypatch):
    """Of each token that comes once what it adds, and not of all there are."""
    words, decoded = tiny.tokenizer(), []
    stop = Stopper(words, frozenset({0}), ("b",))
    decode = stop._decode
    monkeypatch.setattr(stop, "_decode", lambda tokens: decoded.append([*tokens]) or decode(tokens))
    anchor, *others = words.encode("a12b")
    one, two, last = others
    for _ in range(3):
        assert stop.reason([one, two], 9) is None
        assert stop.reason([one, two, one], 9) is None
    assert decoded == [[anchor], [anchor, two], [anchor, one]]
    assert stop.reason([one, last], 9) == "stop"
    assert decoded[3:] == [[anchor, last], [one, last]]


def test_chat_templates_are_applied_once():
    words = tiny.tokenizer()
    words.chat_template = (
        "{% for m in messages %}{{ m['role'] }}.{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}a.{% endif %}"
    )
    prompt = Prompt(id="1", text="1+1=", messages=({"role": "user", "content": "1+1="},))
    assert words.decode(PromptEncoder(words)(prompt)) == "user.1+1=\na."
    words.chat_template = None
    with pytest.raises(UserError, match=r"prompts\.chat"):
        PromptEncoder(words)(prompt)


def test_a_key_that_no_chat_template_reads_is_among_the_notes(tiny_model):
    made = local.engine(tiny_model)
    made.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    turn = {"role": "user", "content": "1+1=", "name": "ann"}
    made.encode(Prompt(id="7", text="1+1=", messages=(turn,)))
    (said,) = made.notes()
    assert "does not read the key 'name' of messages (prompt '7' turn 1)" in said


@pytest.mark.parametrize(
    ("flags", "slow"),
    [
        ({"sse2", "avx2"}, True),
        ({"sse2", "avx512_bf16"}, False),
        ({"sse2", "amx_bf16"}, False),
        ({"asimd", "fp"}, False),  # an ARM's, of which nothing is known
        (set(), False),
    ],
)
def test_mixed_precision_where_it_is_slower_is_among_the_notes(
    tiny_model, monkeypatch, flags, slow
):
    monkeypatch.setattr(devices, "processor", lambda: Processor("", frozenset(flags)))
    assert local.engine(tiny_model).notes() == []
    notes = local.engine(tiny_model, optimizer={"precision": "mixed"}).notes()
    assert len(notes) == slow
    assert all("'mixed' is slower here than 'float32'" in note for note in notes)


def test_a_prompt_longer_than_the_context_is_refused(tiny_model):
    made = local.engine(tiny_model)
    prompts = [Prompt(id="short", text="1"), Prompt(id="long", text="1" * 120)]
    check_prompts(made, prompts, max_tokens=8)
    with pytest.raises(UserError, match=r"'long' has 120 tokens.*128"):
        check_prompts(made, prompts, max_tokens=9)


def test_a_model_is_probed_once_for_its_notes_and_its_samplers(tiny_model, monkeypatch):
    made, probes = local.engine(tiny_model), []
    probe = engine_module.token_bytes
    for module in (engine_module, sampler_module):
        monkeypatch.setattr(module, "token_bytes", lambda of: probes.append(1) or probe(of))
    samplers = [made.sampler(SamplingConfig()) for _ in range(2)]
    assert made.notes() == []
    assert samplers[0]._token_bytes == samplers[1]._token_bytes == probe(made.forward())
    assert probes == [1]


def trained_group(token: int = 5) -> Group:
    return Group(
        prompt=Prompt(id="1", text="1+1="),
        prompt_ids=(3, 4, 5),
        samples=(Sample((token, 0), (-1.0, -1.0), "x", "eos"),),
        scores=(Score(1.0),),
        outcomes=(Outcome(True, "survived"),),
        advantages=(1.0,),
    )


def learner(net: torch.nn.Module, **settings) -> LocalLearner:
    return local.learner(PolicyForward(net), tokens=100, **settings)


LIKELIHOOD = (Term(NLL(), SampleMeans()),)


def test_bfloat16_weights_are_steered_by_a_float32_copy(tmp_path):
    """At lr 1e-5 a step is below half a unit in the last place of most bfloat16 weights."""
    net = tiny.model().to(torch.bfloat16)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    apprentice = learner(net, lr=1e-5)
    for _ in range(200):
        local.step(apprentice, [trained_group()], LIKELIHOOD, 1.0)
    weight = "model.layers.0.mlp.up_proj.weight"
    moved = (dict(net.named_parameters())[weight] - before[weight]).detach().abs().mean()
    # Adam moves each weight by about lr a step: 200 x 1e-5 = 2e-3; without a copy most stay put
    assert float(moved) > 5e-4
    assert all(p.grad is None for p in net.parameters())
    (tmp_path / "saved").mkdir()
    apprentice.save(tmp_path / "saved")
    again = learner(tiny.model().to(torch.bfloat16), lr=1e-5)
    again.load(tmp_path / "saved")
    assert again.version == 200
    for one, other in zip(again._masters, apprentice._masters, strict=True):
        assert torch.equal(one, other)


def test_what_is_below_a_unit_of_bfloat16_is_seen_on_average():
    """Weights that begin as numbers of bfloat16 stay the nearest to them for many steps.

    A master moves by lr at first, 1e-6, and its weight by a unit of about 1e-4, once in 100: over
    200,000 weights what is seen has a standard deviation of sqrt(100 / 200,000) = 2 % of itself.
    """
    net = tiny.model().to(torch.bfloat16)
    before = {name: weight.detach().double() for name, weight in net.named_parameters()}
    apprentice = learner(net, lr=1e-6)
    local.step(apprentice, [trained_group()], LIKELIHOOD, 1.0)
    seen = moved = 0.0
    for (name, now), master in zip(net.named_parameters(), apprentice._masters, strict=True):
        if now.dim() > 1:
            move = master.double() - before[name]
            seen += float((move * (now.detach().double() - before[name])).sum())
            moved += float((move * move).sum())
    assert seen / moved == pytest.approx(1, abs=0.1)


def test_an_average_of_the_policy_is_seen_as_the_policy_is():
    """In bfloat16 too: it follows what is stepped, and is rounded on average.

    Of masters that Adam moves by lr in each of the first steps the average has 0.1, 0.28, ... of a
    step by hand; with the weights themselves it would be that of what happened to be raised.
    """
    net = tiny.model().to(torch.bfloat16)
    before = [weight.detach().float() for weight in net.parameters()]
    apprentice = learner(net, lr=1e-5)
    weights = [weight.detach() for weight in net.parameters()]
    reference = EMA(apprentice._policy.borrowed, weights, 0.9)
    apprentice.reference = reference
    by_hand = [weight.clone() for weight in before]
    for _ in range(3):
        local.step(apprentice, [trained_group()], LIKELIHOOD, 1.0)
        for average, master in zip(by_hand, apprentice._masters, strict=True):
            average.mul_(0.9).add_(master, alpha=0.1)
    with reference.used():
        seen = [weight.detach().float() for weight in net.parameters()]
    true, found = (
        torch.cat([(a - b).flatten() for a, b in zip(each, before, strict=True)])
        for each in (by_hand, seen)
    )
    assert float(true @ found / (true @ true)) == pytest.approx(1, abs=0.1)
    for average, own in zip(reference.state(), by_hand, strict=True):
        torch.testing.assert_close(average, own, rtol=1e-6, atol=1e-9)


def test_whether_a_gradient_was_scaled_down_is_told():
    """The norm of the same gradient is on either side of the limit."""
    norm = local.step(learner(tiny.model()), [trained_group()], LIKELIHOOD, 1.0).grad_norm
    for limit, clipped in ((0.9 * norm, True), (1.1 * norm, False)):
        apprentice = learner(tiny.model(), max_grad_norm=limit)
        done = local.step(apprentice, [trained_group()], LIKELIHOOD, 1.0)
        assert (done.grad_norm, done.grad_clipped) == (pytest.approx(norm), clipped)


@pytest.mark.parametrize(
    "room", [0, 2_000, 400_000, 1_000_000, 1_600_000]
)  # the model is too long, or the optimizer's state
def test_a_full_disk_while_a_checkpoint_is_written_is_one_line(tmp_path, room):
    store = RunStore.create(tmp_path / "run", "", {})
    apprentice = learner(tiny.model())
    local.step(apprentice, [trained_group()], LIKELIHOOD, 1.0)
    store.checkpoint(1, apprentice.save, {}, keep=1)
    with full_disk(room), pytest.raises(WinnowError, match=r"^cannot write .*step-2: ") as error:
        store.checkpoint(2, apprentice.save, {}, keep=1)
    assert "\n" not in str(error.value)
    assert [path.name for path in (store.folder / "checkpoints").iterdir()] == ["step-1"]


def test_a_nonfinite_gradient_leaves_the_weights_alone():
    net = tiny.model()
    before = [p.detach().clone() for p in net.parameters()]
    poisoned = trained_group().with_(samples=(Sample((5, 0), (-1e30, -1.0), "x", "eos"),))
    apprentice = learner(net)
    stats_ = local.step(apprentice, [poisoned], (Term(Clipped(0.2, 1e30), SampleMeans()),), 1.0)
    assert not stats_.applied
    assert apprentice.version == 0
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert local.step(apprentice, [trained_group()], LIKELIHOOD, 1.0).applied


def test_learning_rate_schedules():
    def rates(**settings):
        config = OptimizerConfig(lr=1.0, warmup=2, **settings)
        return [round(learning_rate(config, update, 6), 4) for update in range(7)]

    assert rates() == [0.5, 1, 1, 1, 1, 1, 1]
    assert rates(schedule="linear") == [0.5, 1, 1, 0.75, 0.5, 0.25, 0]
    assert rates(schedule="cosine") == [0.5, 1, 1, 0.8536, 0.5, 0.1464, 0]


def test_nothing_to_learn_is_a_fault_of_the_caller():
    with pytest.raises(ValueError, match="nothing to learn"):
        local.step(
            learner(tiny.model()), [trained_group().with_(advantages=(0.0,))], LIKELIHOOD, 1.0
        )


@pytest.mark.parametrize("what", ["safetensors", "gguf", "long"])
def test_a_model_that_cannot_be_read_is_named(tmp_path, what):
    folder = tmp_path / "model"
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    name = str(folder)
    if what == "safetensors":
        (folder / "model.safetensors").write_bytes(b"\x00" * 50)
    elif what == "gguf":
        name = str(folder / "bad.gguf")
        (folder / "bad.gguf").write_bytes(b"no such format")
    else:
        name = "x" * 5000
    with pytest.raises(UserError, match=r"^model: .*(model|bad\.gguf|xxx)") as caught:
        load_model(resolve(name), "float32", torch.device("cpu"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("lora", [{}, {"lora": {"rank": 4}}])
def test_logprobs_of_other_weights_leave_the_present_ones_alone(
    tiny_model, tmp_path, monkeypatch, lora, copied
):
    """They are what a plain model from the same folder says, read again or kept as a snapshot."""
    if copied:  # as where the module is on a GPU
        monkeypatch.setattr(LocalPolicy, "_swapped", LocalPolicy._copied)
    made = local.engine(tiny_model, **lora)
    made.snapshot("first", aside=True)
    words = tiny.tokenizer()
    ids, ends = tuple(words.encode("1+2=")), [words.encode("3"), words.encode("44")]
    group = Group(
        Prompt("x", "1+2="), ids, tuple(Sample(tuple(e), (-1.0,) * len(e), "", "eos") for e in ends)
    )
    torch.manual_seed(0)
    made.put([weight + torch.randn_like(weight) * 0.05 for weight in made.tensors()])
    (tmp_path / "now").mkdir()
    made.save(tmp_path / "now")
    before = [w.clone() for w in made.weights("present")]

    def plainly(folder):
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        found = []
        for end in ends:
            logits = plain(torch.tensor([[*ids, *end]])).logits[0].detach() / 0.7
            logp = logits.log_softmax(-1)[len(ids) - 1 : -1]
            found.append(float(logp[range(len(end)), end].sum()))
        return found

    start, now = plainly(tiny_model), plainly(tmp_path / "now")
    assert max(abs(a - b) for a, b in zip(start, now, strict=True)) > 0.01
    for _ in range(2):
        (found,) = made.logprobs([group], 0.7, "start")
        assert found == pytest.approx(start, abs=1e-4)
        assert all(map(torch.equal, before, made.weights("present")))
        (found,) = made.logprobs([group], 0.7)
        assert found == pytest.approx(now, abs=1e-4)
        made.snapshot("start", of="start", aside=not lora)
    (found,) = made.logprobs([group], 0.7, tmp_path / "now")
    assert found == pytest.approx(now, abs=1e-4)
    (found,) = made.logprobs([group], 0.7, "first")
    assert found == pytest.approx(start, abs=1e-4)
    assert all(map(torch.equal, before, made.weights("present")))
