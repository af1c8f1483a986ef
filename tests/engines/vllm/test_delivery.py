"""Weights prove that they arrived: a server that has others does not sample."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.engines.vllm.given import engine, load, moved, requests, sampled, sampler, soon
from tests.fake_engine import logp
from tests.fake_vllm import FakeVLLM
from winnow.engines.base import PRESENT, WeightsRef
from winnow.engines.vllm.protocol import sample_seed
from winnow.engines.weights.canary import BLOCK, Canary, distance, prefixes
from winnow.engines.weights.outbox import Outbox, hash_of
from winnow.errors import NoServer, WinnowError


def updated(policy, made, version: int) -> None:
    moved(policy, version % 10)
    load(made, policy.publish(version))


def damaged(ref: WeightsRef) -> WeightsRef:
    assert isinstance(ref.where, Path)
    path = ref.where / "logits.json"
    path.write_text(path.read_text().replace("0.0", "0.5", 1))
    return ref


class TestDelivery:
    def test_the_steps_in_their_order(self, tmp_path) -> None:
        policy = engine(tmp_path)
        with FakeVLLM() as one:
            made, _ = sampler([one], policy, pause="abort")
            load(made, policy.publish(3))
        assert one.calls == [
            "/health",
            "/v1/models",
            "/pause?mode=abort",
            "/collective_rpc",
            "/reset_prefix_cache",
            "/update_weight_version",
            "/resume",
            "/weight_info",
        ]

    def test_samples_are_of_the_version_that_was_sent_last(self, tmp_path) -> None:
        policy = engine(tmp_path)
        with FakeVLLM() as one, FakeVLLM() as two:
            made, heard = sampler([one, two], policy)
            for version in range(1, 5):
                updated(policy, made, version)
                own = logp(policy.now)
                for group in sampled(made, requests(4)):
                    for sample in group.samples:
                        assert sample.policy_version == version
                        (token,) = sample.token_ids
                        assert sample.logprobs[0] == pytest.approx(own[token - 48], abs=1e-6)
        assert heard == []
        assert made.notes()[0].startswith("canaries: the servers' log-probs are at most ")

    def test_nothing_travels_that_nobody_samples_from(self, tmp_path) -> None:
        policy = engine(tmp_path)
        with FakeVLLM() as one:
            made, _ = sampler([one], policy)
            for version in (1, 2, 3):
                moved(policy, version)
                made.load(policy.publish(version))
            assert one.calls == []
            (group,) = sampled(made, requests(1))
            assert one.calls.count("/collective_rpc") == 1
        assert {sample.policy_version for sample in group.samples} == {3}

    def test_new_weights_while_samples_are_under_way(self, tmp_path) -> None:
        """They are at once, and each sample says which it is of."""
        policy = engine(tmp_path)
        with FakeVLLM() as one:
            made, heard = sampler([one], policy, slots=1)
            load(made, policy.publish(1))
            first = {sample_seed(1000, number) for number in range(4)}

            def behave(server, body):
                """Of the first request at once, of others when the new weights are there."""
                if body["sampling_params"]["seed"] not in first:
                    assert soon(lambda: server.label.startswith("2-"))
                return server.sampled(body)

            one.script = [behave] * 36
            made.submit(requests(9))
            results = made.results()
            found = [next(results)[1]]
            moved(policy, 3)
            made.load(policy.publish(2))
            found += [group for _, group in results]
        versions = {sample.policy_version for group in found for sample in group.samples}
        assert (versions, heard) == ({1, 2}, [])

    def test_weights_that_are_there_are_not_sent_again(self, tmp_path) -> None:
        policy = engine(tmp_path)
        with FakeVLLM() as one:
            made, _ = sampler([one], policy)
            load(made, policy.publish(1))
            one.calls.clear()
            load(made, policy.publish(2))
            assert one.calls == ["/update_weight_version", "/weight_info"]
            (group,) = sampled(made, requests(1))
        assert {sample.policy_version for sample in group.samples} == {2}

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ("reads", "its log-probs are .* nats from the learner's, more than 0.001"),
            ("empties", "its log-probs are .* nats from the learner's, more than 0.001"),
            ("resets", "it does not empty its prefix cache"),
            ("labels", "it has version '1-.*' instead of '2-"),
        ],
    )
    def test_a_server_with_other_weights_is_taken_out(
        self, wrong, said, tmp_path, monkeypatch
    ) -> None:
        monkeypatch.setattr("winnow.engines.vllm.delivery._BETWEEN", 0.01)
        policy = engine(tmp_path)
        with FakeVLLM() as good, FakeVLLM() as bad:
            made, heard = sampler([good, bad], policy)
            updated(policy, made, 1)
            sampled(made, requests(8))
            setattr(bad, wrong, False)
            updated(policy, made, 2)
            before = len(bad.asked)
            groups = sampled(made, requests(8))
            assert len(bad.asked) == before
            good.reads = bad.reads = False
            with pytest.raises(NoServer, match=said):
                updated(policy, made, 3)
        assert {s.policy_version for group in groups for s in group.samples} == {2}
        assert heard[0].startswith(f"{bad.url} failed")
        assert heard[0].partition(": ")[2]

    def test_a_stale_cache_without_a_reset_is_seen(self, tmp_path, monkeypatch) -> None:
        """The switch that leaves the reset out; nothing else is wrong."""
        policy = engine(tmp_path)
        with FakeVLLM() as one:
            made, _ = sampler([one], policy)
            updated(policy, made, 1)
            sampled(made, requests(2))
            whole = made._delivery
            monkeypatch.setattr(
                made, "_delivery", lambda *at: dataclasses.replace(whole(*at), resets=False)
            )
            with pytest.raises(NoServer, match="nats from the learner's"):
                updated(policy, made, 2)

    def test_adapters_travel_alone(self, tmp_path) -> None:
        policy = engine(tmp_path)
        policy.outbox.base(policy.save)
        with FakeVLLM() as one:
            made, _ = sampler([one], policy, lora=True)
            answer, paths = one.answer, []

            def noted(path, body):
                paths.extend([Path(body["lora_path"])] if "lora_path" in body else [])
                return answer(path, body)

            one.answer = noted
            updated(policy, made, 1)
            sampled(made, requests(1))
        assert [path.is_dir() for path in paths] == [True]  # read again whenever vLLM needs them
        assert "/v1/load_lora_adapter" in one.calls
        assert "/collective_rpc" not in one.calls
        assert {body["model"] for body in one.asked} == {"policy-lora"}

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda ref: WeightsRef(1, PRESENT), "take weights from a folder"),
            (lambda ref: dataclasses.replace(ref, hash="x"), "are not those of version 1"),
            (lambda ref: dataclasses.replace(ref, where=Path("/no/folder")), "are gone"),
        ],
    )
    def test_a_folder_is_looked_at_before_a_server_hears_of_it(
        self, change, said, tmp_path
    ) -> None:
        policy = engine(tmp_path)
        with FakeVLLM() as one:
            made, _ = sampler([one], policy)
            with pytest.raises(WinnowError, match=said):
                load(made, change(policy.publish(1)))
        assert one.calls == []

    def test_damaged_weights_give_no_sample(self, tmp_path) -> None:
        policy = engine(tmp_path)
        with FakeVLLM() as one:
            made, _ = sampler([one], policy)
            made.load(damaged(policy.publish(1)))
            with pytest.raises(NoServer, match=r"nats from the learner's, more than 0.001"):
                sampled(made, requests(2))
        assert one.asked == []
        assert made.measures()["servers_failed"] == 1

    @pytest.mark.parametrize("step", ["/pause", "/collective_rpc", "/reset_prefix_cache"])
    def test_a_server_goes_on_whatever_failed(self, step, tmp_path) -> None:
        """It may be others' too."""
        policy = engine(tmp_path)
        with FakeVLLM() as one:
            made, heard = sampler([one], policy)
            load(made, policy.publish(0))
            answer, fails = one.answer, [True] * 2  # a kept connection is tried anew once

            def failing(path, body):
                if path.startswith(step) and fails:
                    fails.pop()
                    answer(path, body)
                    raise ConnectionAbortedError
                return answer(path, body)

            one.answer = failing
            one.calls.clear()
            moved(policy, 4)
            load(made, policy.publish(1))
            assert not one.paused.is_set()
            calls = [call.partition("?")[0] for call in one.calls]
            steps = [call for call in calls if call in ("/pause", "/resume", step)]
            assert steps[steps.index(step) :][:3] == [step, step, "/resume"]
        assert heard[0].startswith(f"{one.url} failed, and others take its requests")

    def test_a_canary_is_no_longer_than_servers_are_told_to_take(self, tmp_path) -> None:
        policy = engine(tmp_path)
        with FakeVLLM() as one:
            one.context = 64
            made, _ = sampler([one], policy, context=64)
            load(made, policy.publish(0))
            assert len(sampled(made, requests(1, max_tokens=1))) == 1


class TestCanary:
    def test_they_are_longer_than_blocks_and_begin_as_what_was_asked(self, tmp_path) -> None:
        policy = engine(tmp_path)
        asked = [tuple(range(40)), tuple(range(200))]
        fixed, short, long = prefixes(policy, asked, None)
        assert all(len(ids) == 3 * BLOCK + 1 for ids in (fixed, short, long))
        assert short[:40] == asked[0]
        assert long == asked[1][: 3 * BLOCK + 1]
        assert prefixes(policy, [], None) == [fixed]  # asked of every version
        assert {len(ids) for ids in prefixes(policy, asked, 30)} == {28}

    def test_the_largest_difference_counts(self) -> None:
        canary = Canary((1, 2), (5, 6), (-1.0, -2.0))
        assert distance(canary, {5: -1.25, 6: -1.5}) == 0.5
        assert distance(canary, {5: -1.0}) == float("inf")


class TestOutbox:
    def test_the_last_two_are_kept_and_all_go_with_it(self, tmp_path) -> None:
        box = Outbox(tmp_path)
        made = [
            box.put(version, lambda f, v=version: (f / "w").write_text(str(v)) and None)
            for version in (1, 3, 2)
        ]
        assert [Path(ref.where).is_dir() for ref in made] == [False, True, True]
        assert len({ref.hash for ref in made}) == 3
        assert made[2].hash == hash_of(Path(made[2].where))
        folder = box.folder
        del box
        assert not folder.exists()

    def test_weights_that_stay_the_same_stay_where_they_are(self, tmp_path) -> None:
        """A server may read adapters again from where it found them, however many steps later."""
        box = Outbox(tmp_path)
        made = [
            box.put(version, lambda f: (f / "w").write_text("same") and None)
            for version in range(4)
        ]
        assert [ref.version for ref in made] == [0, 1, 2, 3]
        assert len({(ref.where, ref.hash) for ref in made}) == 1
        assert [path.name for path in box.folder.iterdir()] == [Path(made[0].where).name]

    def test_what_a_killed_process_left_is_swept(self, tmp_path) -> None:
        mine, other = Outbox(tmp_path), Outbox(tmp_path)
        gone = tmp_path / mine.folder.name.replace(
            f"-{mine.folder.name.split('-')[-2]}-", "-4194999-"
        )
        gone.mkdir()
        mine.base(lambda folder: None)
        other.base(lambda folder: None)
        assert sorted(tmp_path.iterdir()) == sorted([mine.folder, other.folder])
