"""Of verl's checkpoints the newest whole one is resumed from, and what is skipped is named."""

import json
import zipfile
from pathlib import Path

import pytest

from star_rl.errors import StarError
from star_rl.integrations.verl.checkpoints import fault_of, last_checkpoint
from star_rl.integrations.verl.recipe import Paths

KINDS = ("model", "optim", "extra_state")


@pytest.fixture
def paths(tmp_path):
    return Paths(run=tmp_path / "run", model=tmp_path, train=tmp_path / "t.parquet", store=tmp_path)


def saved(file):
    """A file as ``torch.save`` writes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 1000)


def tensors(file, short=0):
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "__metadata__": {}}).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * (16 - short))


def checkpoint(paths, step, ranks=2, kinds=KINDS):
    folder = paths.checkpoints / f"global_step_{step}"
    for kind in kinds:
        for rank in range(ranks):
            saved(folder / "actor" / f"{kind}_world_size_{ranks}_rank_{rank}.pt")
    saved(folder / "data.pt")
    return folder


def track(paths, text):
    paths.checkpoints.mkdir(parents=True, exist_ok=True)
    (paths.checkpoints / "latest_checkpointed_iteration.txt").write_text(text)


def tracked(paths):
    return (paths.checkpoints / "latest_checkpointed_iteration.txt").read_text()


def cut(file):
    file.write_bytes(file.read_bytes()[:-30])


def test_a_whole_newest_checkpoint_is_resumed_from_in_silence(paths):
    for step in (2, 4):
        checkpoint(paths, step)
    track(paths, "4")
    said = []
    assert last_checkpoint(paths, said.append) == 4 and not said
    assert last_checkpoint(Paths(paths.run / "other", paths.model, paths.train, paths.store)) is None


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda actor: cut(actor / "model_world_size_2_rank_1.pt"), "incomplete actor/model_world_size_2_rank_1.pt"),
        (lambda actor: (actor / "optim_world_size_2_rank_0.pt").write_bytes(b""), "incomplete actor/optim_world"),
        (lambda actor: (actor / "model_world_size_2_rank_1.pt").unlink(), "lacks model of rank 1"),
        (lambda actor: (actor / "extra_state_world_size_2_rank_0.pt").unlink(), "lacks extra_state of rank 0"),
        (lambda actor: (actor.parent / "data.pt").unlink(), "has no data.pt"),
        (lambda actor: [file.unlink() for file in actor.iterdir()], "has no weights"),
        (lambda actor: tensors(actor / "huggingface" / "model.safetensors", 1), "incomplete actor/huggingface/model"),
        (lambda actor: actor.parent.rename(actor.parent.with_name("away")), "is missing"),
    ],
)
def test_a_newest_checkpoint_that_is_cut_or_gone_is_skipped_and_named(paths, spoil, words):
    for step in (2, 4, 6):
        checkpoint(paths, step)
    track(paths, "6")
    spoil(paths.checkpoints / "global_step_6" / "actor")
    said = []
    assert last_checkpoint(paths, said.append) == 4 and tracked(paths) == "4"
    assert len(said) == 1 and "step 4" in said[0] and words in said[0].split("step 6")[1]
    assert last_checkpoint(paths, said.append) == 4 and len(said) == 1


def test_several_spoilt_ones_are_skipped_and_none_whole_is_refused(paths):
    for step in (2, 4, 6):
        checkpoint(paths, step)
    track(paths, "6")
    for step in (6, 4):
        cut(paths.checkpoints / f"global_step_{step}" / "data.pt")
    said = []
    assert last_checkpoint(paths, said.append) == 2 and "step 6" in said[0] and "step 4" in said[0]
    cut(paths.checkpoints / "global_step_2" / "data.pt")
    with pytest.raises(StarError, match=r"no checkpoint .* is whole; step 2 has an incomplete data.pt"):
        last_checkpoint(paths)
    assert len(list(paths.checkpoints.glob("global_step_*"))) == 3


def test_a_checkpoint_past_the_tracked_one_is_not_taken_unless_the_file_is_empty(paths):
    for step in (2, 4):
        checkpoint(paths, step)
    track(paths, "2")
    assert last_checkpoint(paths) == 2
    track(paths, "")
    assert last_checkpoint(paths) == 4 and tracked(paths) == "4"


def test_a_kill_within_the_first_checkpoint_starts_anew_and_one_after_it_does_not(paths):
    folder = checkpoint(paths, 2)
    (folder / "data.pt").unlink()
    assert last_checkpoint(paths) is None
    saved(folder / "data.pt")
    assert last_checkpoint(paths) == 2 and tracked(paths) == "2"


def test_weights_of_every_form_are_whole(paths):
    thinned = checkpoint(paths, 1, kinds=("model",))
    assert fault_of(thinned) == ""
    whole = paths.checkpoints / "global_step_3"
    saved(whole / "data.pt")
    tensors(whole / "actor" / "huggingface" / "model.safetensors")
    assert fault_of(whole) == ""
    megatron = paths.checkpoints / "global_step_5"
    saved(megatron / "data.pt")
    (megatron / "actor" / "dist_ckpt").mkdir(parents=True)
    assert fault_of(megatron) == "has no .metadata in dist_ckpt"
    (megatron / "actor" / "dist_ckpt" / ".metadata").write_bytes(b"x")
    assert fault_of(megatron) == ""


def test_a_disk_that_does_not_answer_is_no_cut_file(paths, monkeypatch):
    checkpoint(paths, 2)
    track(paths, "2")

    def stale(*_, **__):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(zipfile, "ZipFile", stale)
    with pytest.raises(OSError, match="Stale"):
        last_checkpoint(paths)
    assert tracked(paths) == "2" and Path(paths.checkpoints / "global_step_2").is_dir()
