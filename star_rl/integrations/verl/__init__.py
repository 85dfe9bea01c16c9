"""verl plug-in: a CPU platform, engine registrations, and the launcher of GRPO.

Modules
    platform   the CPU platform (process group, device module), imported by every verl process
    engines    training engines and rollout replica for the CPU (``actor_rollout_ref.model.external_lib``)
    worker     the extension vLLM's worker loads, which keeps weights reloadable
    replay     a replay buffer that polls quickly
    recipe     a recipe (YAML, dict) -> verl's overrides and environment
    grpo       runs ``verl.trainer.main_ppo`` with them, follows it, ends it

Importing this package imports none of them: verl, Ray and torch load only where they are used.
"""
