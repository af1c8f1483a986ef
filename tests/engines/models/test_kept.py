"""What is read of a GGUF file and what is kept of it are the same model, bit for bit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import local, tiny
from winnow.engines.models import kept, loading
from winnow.errors import UserError


def forget() -> None:
    """What this process knows of folders, as another would not."""
    kept._small_files_whole.cache_clear()
    kept._look.cache_clear()


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch) -> Path:
    """A cache of the test's own, and no memory of other folders that were looked at."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    forget()
    return tmp_path / "caches" / "winnow"


@pytest.fixture
def file(tmp_path) -> Path:
    """A small Llama, its matrices in four bits."""
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_context_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(["<end>", *"abcdef", "ab"])
    writer.add_token_types([3, *[1] * 7])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    random = np.random.default_rng(0)
    shapes = {"token_embd": (8, 64), "output_norm": (64,)}
    shapes |= {f"blk.0.{name}": (64, 64) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
    shapes |= {f"blk.0.{name}": (64, 64) for name in ("ffn_gate", "ffn_up", "ffn_down")}
    shapes |= {f"blk.0.{name}": (64,) for name in ("attn_norm", "ffn_norm")}
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
            continue
        four = gguf.GGMLQuantizationType.Q4_1
        writer.add_tensor(f"{name}.weight", gguf.quantize(values, four), raw_dtype=four)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(file: Path, dtype: str = "float32"):
    """An engine whose model is read, and its weights as bytes."""
    engine = local.engine(file, dtype=dtype)
    weights = {
        name: weight.contiguous().view(torch.uint8).numpy().tobytes()
        for name, weight in engine.module().state_dict().items()
    }
    return engine, weights


@pytest.fixture
def readings(monkeypatch) -> list[str | None]:
    """What `from_pretrained` was told of a GGUF file, reading by reading."""
    from transformers import AutoModelForCausalLM

    told, true = [], AutoModelForCausalLM.from_pretrained

    def tells(*args, gguf_file=None, **more):
        told.append(gguf_file)
        return true(*args, gguf_file=gguf_file, **more)

    def in_memory(folder, weights, how):
        told.append("in memory")
        return directly(folder, weights, how)

    directly = loading._of_weights
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", tells)
    monkeypatch.setattr(loading, "_of_weights", in_memory)
    return told


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_kept_is_what_was_read(file, caches, tmp_path, readings, dtype, ahead) -> None:
    first, weights = read(file, dtype)
    if dtype == "bfloat16":  # rounded weights are not the file's
        assert not caches.exists()
        read(file)
        readings.clear()
        readings.append("small.gguf")
    if ahead:
        forget()
        loading.check_ahead(str(file))
    again, others = read(file, dtype)
    assert readings == ["small.gguf", "in memory" if ahead else None]
    assert others == weights
    assert again.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    assert loading.end_tokens(again.module(), again.tokenizer) == {0}
    assert again.context == first.context == 32
    for name, engine in (("a", first), ("b", again)):
        engine.save(tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes(), path.name


def test_another_file_of_the_name_is_another_model(file, caches, readings) -> None:
    read(file)
    bits = bytearray(file.read_bytes())
    bits[-1] ^= 1
    file.write_bytes(bits)
    _, weights = read(file)
    assert readings == ["small.gguf"] * 2
    assert len(list(caches.iterdir())) == 1, "what was kept of the former file is removed"
    assert read(file)[1] == weights


def flipped(path: Path) -> None:
    bits = bytearray(path.read_bytes())
    bits[-1] ^= 1
    path.write_bytes(bits)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def of_another_model(path: Path) -> None:
    """Whole by itself, and of the same shapes: only the digest tells."""
    tensors = load_file(path)
    save_file({name: -tensor for name, tensor in tensors.items()}, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", flipped),
        ("model.safetensors", truncated),
        ("model.safetensors", of_another_model),
        ("model.safetensors", Path.unlink),
        ("tokenizer.json", flipped),
        ("config.json", flipped),
        ("kept.json", flipped),
    ],
)
@pytest.mark.parametrize("ahead", [False, True])
def test_what_is_damaged_is_read_anew(file, caches, readings, name, damage, ahead) -> None:
    _, weights = read(file)
    (folder,) = caches.iterdir()
    damage(folder / name)
    for _ in range(2):
        forget()  # as in another process
        if ahead:
            loading.check_ahead(str(file))
        assert read(file)[1] == weights
    assert readings == ["small.gguf"] * 2 + ["in memory" if ahead else None]


def test_half_a_folder_is_replaced(file, caches, readings) -> None:
    """What is left where a process was killed while it removed a damaged one."""
    _, weights = read(file)
    (folder,) = caches.iterdir()
    (folder / "kept.json").unlink()
    for _ in range(2):
        forget()
        assert read(file)[1] == weights
    assert readings == ["small.gguf"] * 2 + [None]
    assert list(caches.iterdir()) == [folder]


def test_what_killed_processes_left_is_removed(file, caches) -> None:
    """What another writes that runs is not, nor another file's."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    caches.mkdir(parents=True)
    name = kept._folder(file).name
    left = [f"{name}.{ended.pid}", f".{name}.{ended.pid}.partial"]
    former = f"{name[:-12]}{'0' * 12}"
    running = [f"{name}.{os.getppid()}", f".{name}.{os.getppid()}.partial"]
    others = [*running, f"other-{name[6:]}", f"{name[:-1]}g"]
    for each in (*left, former, *others):
        (caches / each).mkdir()
    read(file)
    there = {path.name for path in caches.iterdir()}
    assert there == {name, *others}


def test_what_was_kept_is_not_written_again(file, caches, monkeypatch) -> None:
    read(file)
    monkeypatch.setattr(kept, "whole_folder", None)
    engine, _ = read(file)
    assert engine.said == ()


def test_weights_in_memory_are_given_once_and_aligned(file) -> None:
    """A second model of them would be written to by whoever trains the first."""
    read(file)
    forget()
    loading.check_ahead(str(file))
    folder = kept.found(file)
    assert folder is not None
    first = kept.weights_in(folder)
    assert first is not None
    assert all(weight.data_ptr() % 64 == 0 for weight in first.values())
    whole = load_file(folder / "model.safetensors")
    assert first.keys() == whole.keys()
    assert all(torch.equal(first[name], whole[name]) for name in whole)
    storages = {weight.untyped_storage().data_ptr() for weight in first.values()}
    assert len(storages) == len(first), "one storage would be copied each time it is saved"
    assert kept.weights_in(folder) is None


def test_weights_that_nobody_will_ask_for_are_not_kept_in_memory(file) -> None:
    read(file)
    forget()
    loading.check_ahead(str(file), weights=False)
    folder = kept.found(file)
    assert folder is not None
    assert kept.weights_in(folder) is None


def test_the_tokenizer_does_not_wait_for_the_digest_of_the_weights(file, monkeypatch) -> None:
    read(file)
    forget()
    monkeypatch.setattr(kept, "_look", None)
    assert loading.load_tokenizer(loading.resolve(str(file))).get_vocab()["ab"] == 7


def test_what_is_kept_in_the_place_of_what_was_damaged_stays(file, caches, readings) -> None:
    """In one process: that the folder was damaged once says nothing of the next one."""
    read(file)
    (folder,) = caches.iterdir()
    (folder / "model.safetensors").write_bytes(b"")
    forget()
    read(file)
    read(file)
    assert readings == ["small.gguf"] * 2 + [None]


def test_what_another_process_kept_meanwhile_stays(file, caches) -> None:
    """It may be reading it."""
    engine, _ = read(file)
    (folder,) = caches.iterdir()
    (folder / "mark").touch()
    assert kept.keep(file, engine.module(), engine.tokenizer) is None
    assert [path.name for path in caches.iterdir()] == [folder.name]
    assert (folder / "mark").exists()


def test_where_nothing_can_be_kept_it_is_said_and_nothing_is_left(file, caches) -> None:
    caches.parent.mkdir()
    caches.write_text("in the way")
    engine, _ = read(file)
    (note,) = engine.said
    assert "small.gguf is read anew each time: it cannot be kept ready (cannot write " in note
    assert caches.read_text() == "in the way"


def test_an_error_names_the_file_and_not_what_was_kept_of_it(file) -> None:
    read(file)
    net = tiny.model()
    with torch.no_grad():
        net.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"^model: '[^']*small\.gguf': 1 of "):
        loading.check_finite(net, loading.resolve(str(file)), "model")


def test_a_large_model_is_not_kept(file, caches, monkeypatch) -> None:
    monkeypatch.setattr(kept, "_LARGEST", 1000)
    engine, _ = read(file)
    assert engine.said == ()
    assert not caches.exists()


def test_a_file_that_is_gone_is_not_found(file) -> None:
    read(file)
    assert kept.found(file) is not None
    shutil.move(file, file.with_name("other.gguf"))
    assert kept.found(file) is None
