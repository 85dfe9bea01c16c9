"""A GRPO recipe, and what verl is told on its account: Hydra overrides, environment, the agent loop's file.

A recipe is a short YAML of what differs. Its ``verl`` branch has the shape of verl's own configuration
(verl/trainer/config/ppo_trainer.yaml); a key that verl's YAML lacks is written with a leading ``+``, as in Hydra, so
that a mistyped key is an error and never a silent addition. Layers, later ones win: what this project always sets,
what a CPU needs, the recipe, the paths of the run.
"""

from __future__ import annotations

import dataclasses
import getpass
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from star_rl.errors import StarError
from star_rl.integrations import on_cpu, wandb_run
from star_rl.integrations.verl import keys, validation
from star_rl.integrations.verl.overrides import leaves, merge, overrides_of
from star_rl.layers import layers, resolve
from star_rl.options import Size, Text, options, read_options
from star_rl.policy.loop import Budget
from star_rl.rewards.loading import place
from star_rl.tools import Lens

PROJECT_ROOT = Path(__file__).resolve().parents[3]
_PACKAGE = "star_rl.integrations.verl"

#: What holds for every run.
BASE: dict[str, Any] = {
    "algorithm": {
        "adv_estimator": "grpo",
        "use_kl_in_reward": False,
        "filter_groups": {"max_num_gen_batches": 5},  # batches a step, once filtering is enabled; verl has no bound
    },
    "data": {
        "dataloader_num_workers": 0,  # rows are short; a worker process costs seconds and gains nothing
        "filter_overlong_prompts": False,  # one that does not fit ends its rollout as `prompt_too_long`, counted
    },
    "actor_rollout_ref": {
        "hybrid_engine": True,
        "model": {"external_lib": f"{_PACKAGE}.engines"},
        "actor": {"strategy": "fsdp2"},
        "rollout": {
            "name": "vllm",
            "mode": "async",
            # Truncated sampling would bias the importance ratio: the policy's own distribution, whole.
            "top_p": 1.0,
            "top_k": -1,
            "agent": {"default_agent_loop": "star_agent"},
        },
    },
    # The loop scores its own rollouts, because only it can tell the model's words from tool output. verl asks its
    # reward workers only for rollouts without a score, so there is nothing for them to do.
    "reward": {"num_workers": 0},
    "trainer": {
        "logger": ["console", "file", "wandb"],
        "val_before_train": False,
        "test_freq": -1,
        "resume_mode": "auto",
        "nnodes": 1,
    },
}

#: What a machine without accelerator needs on top.
CPU: dict[str, Any] = {
    "actor_rollout_ref": {
        "model": {
            "use_remove_padding": False,  # needs flash attention
            "enable_gradient_checkpointing": False,
            "+override_config": {"attn_implementation": "sdpa"},
        },
        "actor": {
            "use_torch_compile": False,
            "fsdp_config": {
                "use_torch_compile": False,
                "+mixed_precision": {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
            },
        },
        "ref": {"fsdp_config": {"use_torch_compile": False}},
        "rollout": {
            "dtype": "float32",
            "tensor_model_parallel_size": 1,
            "enforce_eager": True,
            "free_cache_engine": False,  # nothing to hand back: both engines use the same memory
            "+enable_sleep_mode": False,
            # One process fewer to start: with one rank vLLM's executor may live in the engine's own process.
            "engine_kwargs": {"vllm": {"+distributed_executor_backend": "uni"}},
            "agent": {"num_workers": 1},
            "checkpoint_engine": {"update_weights_bucket_megabytes": 64},
        },
    },
    "transfer_queue": {"backend": {"SimpleStorage": {"num_data_storage_units": 1}}},
    "trainer": {
        "device": "cpu",
        "n_gpus_per_node": 1,
        "v1": {"sampler": {"sampler_kwargs": {"+poll_interval": 0.05}}},  # verl's 2 s are longer than a tiny step
    },
}

CPU_ENVIRONMENT = {
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": f"{_PACKAGE}.platform",
    "TORCHDYNAMO_DISABLE": "1",  # eager anyway; the first import and the first batch come half a minute earlier
    # vLLM's asynchronous engine is a process of its own whatever this says; 0 only lets the executor live in it
    # (cpu.py:175).
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # binding would pin the trainer's threads to the same cores
    "OMP_NUM_THREADS": "1",
}
ENVIRONMENT = {
    "VERL_USE_EXTERNAL_PLUGINS": "none",
    "VLLM_PLUGINS": "none",  # ms-swift registers one that needs torchvision
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "HYDRA_FULL_ERROR": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@options
class PolicyOptions:
    """How the student may use the tools; the same values as in sampling and evaluation.

    lens, lens_top: see :class:`star_rl.tools.ToolBox`. show_tools: list the schemas in the prompt, as the SFT
    data does. own, environment: tools and an environment of one's own (:mod:`star_rl.own`). opener:
    ``module:function`` of (path, scenario, fingerprint) that opens the store. budget: fields of
    :class:`star_rl.policy.loop.Budget`; the response length is ``verl.data.max_response_length``.
    """

    lens: Lens = "text"
    lens_top: Size = 5
    show_tools: bool = True
    own: tuple[str, ...] = ()
    environment: str = ""
    opener: str = "star_rl.evidence:EvidenceStore.open"
    budget: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        read_options(Budget, self.budget, "budget")


@options
class GrpoRecipe:
    """What a GRPO recipe says.

    reward    ``pkg://module`` or a Python file, with a function ``compute_score``; ``:name`` at its end names another
    device    cpu, cuda, npu, or auto
    ray       keyword arguments of ``ray.init``; ``address`` joins a running cluster instead of starting one
    env       environment variables of all processes
    """

    verl: dict[str, Any] = field(default_factory=dict)
    policy: PolicyOptions = field(default_factory=PolicyOptions)
    reward: str = "pkg://star_rl.rewards.star"
    device: Literal["auto", "cpu", "cuda", "npu"] = "auto"
    ray: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Text] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("data", "trainer", "reward"):
            if not isinstance(value := self.verl.get(name, {}), Mapping):
                raise StarError(f"verl.{name}={value} is not a section", "write keys with values below it")


def load_recipe(
    source: str | Path | Sequence[str | Path] | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> GrpoRecipe:
    """Read a GRPO recipe from YAML (over its ``base:``, if any) or from a mapping; ``overrides`` of its shape win.

    Of several files each is laid over those before; only the first one's ``base:`` is read.

    Raises:
        StarError: no such file, or it is not a mapping, or an unknown key or a bad value.
    """
    if isinstance(source, Mapping):
        name, tree = "the recipe", [dict(source)]
    else:
        first, *others = [source] if isinstance(source, str | Path) else source
        name = ", ".join(map(str, (first, *others)))
        tree = [*layers(first), *(layers(file)[-1] for file in others)]
    try:
        values = resolve(merge(*tree, overrides or {}))  # `+key` and `key` are one
        return GrpoRecipe(**{key: value for key, value in values.items() if value is not None})
    except StarError as error:
        raise StarError(f"{name}: {error.what}", error.remedy) from error


def choose_device(device: str) -> str:
    """``auto`` becomes cuda where this machine has an NVIDIA or AMD device, and engines for it, else cpu; no torch is
    imported to find out."""
    if device != "auto":
        return device
    present = any(Path(node).exists() for node in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd"))
    return "cuda" if present and not on_cpu() else "cpu"


@dataclass(frozen=True, slots=True)
class Paths:
    """Files of one GRPO run. ``val`` may equal ``train``: verl opens it even when it never validates.

    ``scenario`` and ``fingerprint`` say what the store was built from; every worker refuses another store. ``data`` is
    the folder of the chain's run, whose items tools of one's own may read.
    """

    run: Path
    model: Path
    train: Path
    store: Path
    val: Path | None = None
    scenario: str = ""
    fingerprint: str = ""
    data: Path | None = None

    @property
    def checkpoints(self) -> Path:
        return self.run / "checkpoints"

    @property
    def rollouts(self) -> Path:
        return self.run / "rollouts"

    @property
    def details(self) -> Path:
        """One JSON-lines file a step: scores, counts and messages of each rollout."""
        return self.run / "details"

    @property
    def validation(self) -> Path:
        """One JSON-lines file a validation, as ``details``."""
        return self.run / "validation"

    @property
    def agent_loops(self) -> Path:
        return self.run / "agent_loops.yaml"

    @property
    def metrics(self) -> Path:
        return self.run / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.run / "train.log"


def ray_folder(run: Path) -> Path:
    """A folder of its own for the local Ray of this run, short enough for Unix sockets (107 characters in all)."""
    name = f"star-ray-{getpass.getuser()[:8]}-{hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:8]}"
    root = Path(tempfile.gettempdir())
    return (root if len(str(root)) <= 12 else Path("/tmp")) / name


def verl_tree(recipe: GrpoRecipe, paths: Paths, name: str) -> dict[str, Any]:
    """The whole overlay of verl's configuration for one run."""
    cpu = choose_device(recipe.device) == "cpu"
    reward, function = place(recipe.reward)
    ray: dict[str, Any] = dict(recipe.ray)
    if not ray.get("address"):
        ray = {"include_dashboard": False, "_temp_dir": str(ray_folder(paths.run)), **ray}
        if cpu:
            workers = merge(CPU, recipe.verl).get("trainer", {}).get("n_gpus_per_node", 1)
            # Logical counts: verl's helpers ask for a CPU each whatever the machine has.
            ray = {"num_cpus": 16, "num_gpus": workers, "object_store_memory": 300_000_000, **ray}
    places = {
        "data": {"train_files": str(paths.train.resolve()), "val_files": str((paths.val or paths.train).resolve())},
        "actor_rollout_ref": {
            "model": {"path": str(paths.model.resolve())},
            "rollout": {"agent": {"agent_loop_config_path": str(paths.agent_loops.resolve())}},
        },
        "reward": {"custom_reward_function": {"path": reward, "name": function}},
        "trainer": {
            "default_local_dir": str(paths.checkpoints.resolve()),
            "rollout_data_dir": str(paths.rollouts.resolve()),
        },
        "ray_kwargs": {"ray_init": {key if key == "num_cpus" else f"+{key}": value for key, value in ray.items()}},
    }
    project = {**os.environ, **recipe.env}.get("WANDB_PROJECT") or wandb_run.PROJECT
    named = {"trainer": {"project_name": project, "experiment_name": name}}
    strict = {"path": f"pkg://{_PACKAGE}.replay", "name": "StrictReplayBuffer"}
    kwargs = {
        "+details_dir": str(paths.details.resolve()),
        "+filter_groups": "${algorithm.filter_groups}",  # verl gives it to its own samplers only
        "+max_steps_without_signal": 3,
        "+validation_dir": str(paths.validation.resolve()),
        "+keep": "last",
        "+patience": 0,
    }
    sampler = {"trainer": {"v1": {"sampler": {"custom_sampler": strict, "sampler_kwargs": kwargs}}}}
    _leaves_alone(recipe.verl, places)
    tree = merge(BASE, CPU if cpu else {}, sampler, named, recipe.verl, places)
    validation.kept(tree)
    return tree


def _leaves_alone(wanted: Mapping[str, Any], places: Mapping[str, Any]) -> None:
    """Whether a recipe leaves to the run what is the run's: its files, its model, its reward.

    Raises:
        StarError: it sets one of them, which would have no effect.
    """
    own = {name: value for name, value, _ in leaves(places)}
    for name, value, _ in leaves(wanted):
        rule = keys.refusal(name, value)
        if rule is not None and rule.by_run and value != own.get(name):
            raise StarError(f"verl.{name}={value} has no effect: {rule.reason}", rule.remedy)


def agent_loops(recipe: GrpoRecipe, paths: Paths) -> list[dict[str, Any]]:
    """The content of ``agent_loop_config_path``: how verl's workers build ``star_agent``."""
    options = dataclasses.asdict(recipe.policy)
    options |= {"own": list(recipe.policy.own), "data": str(paths.data.resolve()) if paths.data else ""}
    target = "star_rl.policy.agent_loop.StarAgentLoop"
    store = {"store": str(paths.store.resolve()), "scenario": paths.scenario, "fingerprint": paths.fingerprint}
    return [{"name": "star_agent", "_target_": target, **store, **options}]


def environment(recipe: GrpoRecipe, paths: Paths, attempt: int, resumed: int = 0) -> dict[str, str]:
    """Environment of the trainer and all it starts, on top of this one's own; ``resumed``: the step to go on from."""
    fixed = dict(ENVIRONMENT)
    if choose_device(recipe.device) == "cpu":
        fixed.update(CPU_ENVIRONMENT)
    search = [str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]
    fixed.update(
        PYTHONPATH=os.pathsep.join(entry for entry in search if entry),
        # verl opens this file anew at each start (verl/utils/tracking.py:541), so each attempt has its own.
        VERL_FILE_LOGGER_PATH=str((paths.run / "attempts" / f"{attempt:03d}.jsonl").resolve()),
        **wandb_run.variables(paths.run, {**os.environ, **recipe.env}, rewind_to=resumed),
    )
    if paths.model.exists():
        fixed.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    return {**fixed, **recipe.env}


def cluster_overrides(recipe: GrpoRecipe, variables: Mapping[str, str]) -> list[str]:
    """What carries the environment to the processes of a cluster that is joined: they are no children of this one."""
    if not recipe.ray.get("address"):
        return []
    return overrides_of({"ray_kwargs": {"ray_init": {"+runtime_env": {"env_vars": dict(variables)}}}})


def compose(overrides: list[str]) -> Any:
    """verl's configuration with the overrides applied, as ``main_ppo`` will see it (verl itself is not imported).

    Raises:
        StarError: verl is not installed, or an override names a key that verl does not have.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    package = importlib.util.find_spec("verl")
    if package is None or not package.submodule_search_locations:
        raise StarError("verl is not installed", "install the extra `cpu` or `gpu`")
    folder = Path(next(iter(package.submodule_search_locations))) / "trainer" / "config"
    try:
        with initialize_config_dir(config_dir=str(folder), version_base=None):
            return hydra_compose(config_name="ppo_trainer", overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        raise StarError(
            f"verl refuses the recipe: {cause}", "mend the key; a key that verl's YAML lacks takes a leading +"
        ) from error
