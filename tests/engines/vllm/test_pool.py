"""Servers that hang, die, lie and answer nonsense lose nothing, and none has other weights."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from tests.engines.vllm.given import (
    END,
    engine,
    load,
    moved,
    reader,
    requests,
    sampled,
    sampler,
    soon,
)
from tests.fake_engine import logp
from tests.fake_vllm import FakeVLLM, aborted, hang, late, nonsense, restarted
from winnow.engines.base import WeightsRef
from winnow.engines.vllm.delivery import Missed
from winnow.engines.vllm.link import Link
from winnow.engines.vllm.member import Member
from winnow.engines.vllm.protocol import sample_seed
from winnow.engines.vllm.sampler import Terms, VLLMSampler
from winnow.errors import NoServer, UserError, WinnowError


def seeds(server: FakeVLLM) -> list[int]:
    return [body["sampling_params"]["seed"] for body in server.asked]


class TestSamples:
    """What comes back is what the policy gives, whichever server gave it."""

    def test_ids_logprobs_reasons_and_versions(self, tmp_path) -> None:
        policy = engine(tmp_path, [0.0, 1.0, 2.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        with FakeVLLM() as one:
            made, _ = sampler([one], policy, temperature=0.5, ends=[END])
            load(made, policy.publish(7))
            params = {"max_tokens": 5, "temperature": 0.5, "stop": ("3",)}
            groups = sampled(made, requests(6, 8, **params))
        own = logp(policy.now, 0.5)
        reasons = set()
        for group in groups:
            assert bytes(group.prompt_ids).decode() == group.prompt.text
            for sample in group.samples:
                digits = [token - 48 for token in sample.token_ids]
                assert sample.logprobs == pytest.approx([own[digit] for digit in digits], abs=1e-6)
                assert sample.policy_version == 7
                last = {0: "eos", 3: "stop"}.get(digits[-1], "length")
                assert sample.finish_reason == last
                assert (len(digits) == 5) or last != "length"
                reasons.add(last)
        assert reasons == {"eos", "stop", "length"}
        assert {tuple(body["token_ids"]) for body in one.asked} == {g.prompt_ids for g in groups}

    def test_every_sample_has_a_seed_of_its_own(self, tmp_path) -> None:
        """Neighboring requests share none, and neither the number of servers nor luck matters."""
        policy = engine(tmp_path)
        found = []
        for number in (1, 2):
            servers = [FakeVLLM() for _ in range(number)]
            for server in servers:
                server.__enter__()
            made, _ = sampler(servers, policy)
            load(made, policy.publish(0))
            found.append(sampled(made, requests(5)))
            asked = [seed for server in servers for seed in seeds(server)]
            assert sorted(asked) == sorted(
                sample_seed(1000 + i, k) for i in range(5) for k in range(4)
            )
            for server in servers:
                server.__exit__()
        assert found[0] == found[1]
        assert len({sample_seed(i, k) for i in range(100) for k in range(100)}) == 10_000

    def test_a_truncated_distribution_has_no_logprobs(self, tmp_path) -> None:
        policy = engine(tmp_path)
        with FakeVLLM() as one:
            made, _ = sampler([one], policy)
            (group,) = sampled(made, requests(1, 2, top_k=3))
        assert [sample.logprobs for sample in group.samples] == [(), ()]

    def test_both_servers_are_kept_full(self, tmp_path) -> None:
        policy = engine(tmp_path)
        with FakeVLLM() as one, FakeVLLM() as two:
            made, _ = sampler([one, two], policy, slots=3)
            sampled(made, requests(20))
        assert min(len(one.asked), len(two.asked)) > 20
        assert max(one.most_at_once, two.most_at_once) <= 3

    def test_what_has_no_room_is_refused(self, tmp_path) -> None:
        policy = engine(tmp_path)
        with FakeVLLM() as one:
            one.context = 50
            made, _ = sampler([one], policy)
            with pytest.raises(UserError, match=r"^engine.vllm_context: 50 tokens have no room"):
                sampled(made, requests(1, max_tokens=9))


class TestTrouble:
    """A server that fails loses nothing: its requests go to another, and it joins again."""

    @pytest.mark.parametrize(
        ("behave", "said"),
        [
            (hang, "no answer within 0.5 seconds"),
            (nonsense, "its log-probs are of other tokens"),
            (restarted, "it sampled from version 'default', not '3-"),
            (late, "it sampled from version '2-"),
        ],
    )
    def test_one_of_two(self, behave, said, tmp_path) -> None:
        policy = engine(tmp_path)
        with FakeVLLM() as one, FakeVLLM() as two:
            made, heard = sampler([one, two], policy, timeout=0.5)
            load(made, policy.publish(2))
            moved(policy, 4)
            load(made, policy.publish(3))
            one.script = [behave]
            groups = sampled(made, requests(10))
            assert [len(group.samples) for group in groups] == [4] * 10
            assert soon(lambda: len(made._pool.up) == 2)
            load(made, policy.publish(3))
        assert heard[0].startswith(f"{one.url} failed, and others take its requests: ")
        assert said in heard[0]
        assert f"{one.url} is back" in heard
        measures = made.measures()
        assert measures.pop("transfer_seconds") > 0
        assert measures.pop("requests_resent") >= 1
        assert measures == {"servers_failed": 1, "servers_back": 1}
        assert set(made.measures().values()) == {0}
        assert re.search(rf"sent again \(\d that {one.url} lost\)", made.notes()[0])
        with FakeVLLM() as alone:  # the same samples as without trouble
            again, _ = sampler([alone], policy)
            load(again, policy.publish(3))
            assert sampled(again, requests(10)) == groups

    def test_weights_stay_for_one_that_comes_back_while_the_run_goes_on(self, tmp_path) -> None:
        """It reads them for as long as four updates take, of which an outbox keeps two."""
        policy, goes_on, there = engine(tmp_path), threading.Event(), []
        with FakeVLLM() as one, FakeVLLM() as two:
            made, heard = sampler([one, two], policy)
            load(made, policy.publish(0))
            answer, one.script = one.answer, [nonsense]

            def slow(path, body):
                if path == "/collective_rpc":
                    goes_on.wait(20)
                    there.append(
                        sorted(p.name for p in Path(body["kwargs"]["weights_path"]).iterdir())
                    )
                return answer(path, body)

            one.answer = slow
            for version in range(1, 5):
                sampled(made, requests(4))
                moved(policy, version)
                load(made, policy.publish(version))
            goes_on.set()
            assert soon(lambda: len(made._pool.up) == 2)
            sampled(made, requests(4))
        assert len(heard) == 2
        assert heard[0].startswith(f"{one.url} failed, and others take its requests: ")
        assert heard[1] == f"{one.url} is back"
        assert len(there) == 2  # as it came back, then the newest
        assert all("logits.json" in names for names in there)
        assert len(list((tmp_path / "sent").glob("*/*"))) == 2

    def test_one_alone_is_waited_for(self, tmp_path) -> None:
        policy = engine(tmp_path)
        with FakeVLLM() as one:
            made, heard = sampler([one], policy)
            load(made, policy.publish(0))
            one.script = [restarted]
            assert len(sampled(made, requests(3))) == 3
        assert heard[-1] == f"{one.url} is back"

    def test_one_that_is_waited_for_is_told_of(self, tmp_path) -> None:
        policy, goes_on = engine(tmp_path), threading.Event()
        with FakeVLLM() as one:
            made, heard = sampler([one], policy)
            load(made, policy.publish(0))
            answer, one.script = one.answer, [nonsense]

            def late_back(path, body):
                if path == "/health":
                    goes_on.wait(20)
                return answer(path, body)

            one.answer = late_back
            thread = threading.Thread(target=sampled, args=(made, requests(3)))
            thread.start()
            told = soon(lambda: bool(heard))
            goes_on.set()
            thread.join()
        assert told

    def test_what_is_given_up_for_new_weights_is_asked_again(self, tmp_path) -> None:
        policy = engine(tmp_path)
        with FakeVLLM() as one:
            made, heard = sampler([one], policy)
            one.script = [aborted] * 3
            groups = sampled(made, requests(2))
        assert [len(group.samples) for group in groups] == [4, 4]
        assert (heard, made.notes()[0]) == ([], "3 requests sent again (3 for new weights)")

    def test_a_request_that_fails_everywhere_ends_it(self, tmp_path) -> None:
        policy = engine(tmp_path)
        with FakeVLLM() as one, FakeVLLM() as two:
            made, _ = sampler([one, two], policy, retries=1)
            one.script = two.script = [nonsense] * 100
            with pytest.raises(UserError, match=r"^engine.retries: a request failed 2 times"):
                sampled(made, requests(1, 1))

    def test_a_server_that_keeps_failing_is_given_up_and_then_there_is_none(self, tmp_path) -> None:
        policy = engine(tmp_path)
        with FakeVLLM() as one:
            made, heard = sampler([one], policy, retries=100)
            one.script = [nonsense] * 1000
            with pytest.raises(NoServer, match=r"no server is left to sample .*other tokens"):
                sampled(made, requests(4))
        assert heard[-1].startswith(f"{one.url} is given up: ")

    def test_closing_ends_what_is_under_way(self, tmp_path) -> None:
        policy = engine(tmp_path)
        with FakeVLLM() as one:
            made, heard = sampler([one], policy)
            first = {sample_seed(1000, number) for number in range(4)}

            def behave(server, body):
                fine = body["sampling_params"]["seed"] in first
                return (FakeVLLM.sampled if fine else hang)(server, body)

            one.script = [behave] * 200
            made.submit(requests(30))
            results = made.results()
            next(results)
            made.cancel()
            assert made._under_way is None
            assert heard == []  # a request that nobody waits for is no failure

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), StopIteration()])
    def test_what_nobody_expected_ends_it_instead_of_being_waited_for(
        self, tmp_path, error
    ) -> None:
        def start(delivery, goes_on):
            raise error

        member = Member("server 0", Link("http://127.0.0.1", 5.0), 4, start, "fake")
        heard: list[str] = []
        policy = engine(tmp_path)
        terms = Terms(temperature=1.0, tolerance=1e-3, timeout=5.0)
        made = VLLMSampler([member], policy, terms, tell=heard.append, reader=reader())
        with pytest.raises(NoServer, match=type(error).__name__):
            load(made, policy.publish(0))
        made.close()
        assert heard[0].startswith(f"server 0 is given up: {type(error).__name__}")

    def test_a_job_that_nobody_can_ask_for_ends_it(self, tmp_path, monkeypatch) -> None:
        def ask(self, job, ends):
            raise KeyError("no such thing")

        policy = engine(tmp_path)
        with FakeVLLM() as one:
            made, _ = sampler([one], policy)
            load(made, policy.publish(0))
            monkeypatch.setattr(Member, "ask", ask)
            with pytest.raises(WinnowError, match=r"KeyError 'no such thing'"):
                sampled(made, requests(3))

    def test_a_server_that_failed_before_is_not_lost_again(self, tmp_path, monkeypatch) -> None:
        """Its request failed first, and its way back cuts the weights that are on their way."""
        policy = engine(tmp_path)
        with FakeVLLM() as one:
            made, heard = sampler([one], policy)
            load(made, policy.publish(0))
            (member,) = made._pool.members

            def give(self, delivery):
                self.state = "down"
                raise Missed("cut")

            monkeypatch.setattr(Member, "give", give)
            made._pool._given(member, made._pool._delivery)
            assert (made._pool.failed, heard) == (0, [])
            member.state = "up"

    def test_closing_while_weights_are_on_their_way_is_no_failure(self, tmp_path) -> None:
        policy, asked = engine(tmp_path), threading.Event()
        with FakeVLLM() as one, FakeVLLM() as two:
            made, heard = sampler([one, two], policy)
            load(made, policy.publish(0))
            answer = one.answer

            def stuck(path, body):
                if path == "/collective_rpc":
                    asked.set()
                    one.released.wait(20)
                return answer(path, body)

            one.answer = stuck
            moved(policy, 4)
            thread = threading.Thread(target=ended, args=(made, policy.publish(1)))
            thread.start()
            assert asked.wait(20)
            made.close()
            one.released.set()
            thread.join(20)
            assert not thread.is_alive()
        assert (heard, made._pool.failed) == ([], 0)


def ended(made: VLLMSampler, weights: WeightsRef) -> None:
    """Weights that are not taken any more, as the servers are ended."""
    with pytest.raises(NoServer, match="the servers were ended"):
        load(made, weights)
