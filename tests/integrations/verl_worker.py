"""One rank of verl's own training worker, started by torchrun: log-probs, one update, save, on a CPU.

The settings are an overlay's of recipes/grpo; the sizes are not: a tiny model, eight sequences, gloo, 32 bits. Rank 0
prints ``RESULT`` and JSON. Arguments: a JSON object with ``recipe``, ``model`` (folder), ``overrides`` (of the recipe),
``save`` and ``load`` (folders or null).
"""

import json
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from verl.utils import tensordict_utils
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import TrainingWorkerConfig
from verl.workers.engine_workers import TrainingWorker
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import response_from_nested

from star_rl.integrations.verl.overrides import overrides_of
from star_rl.integrations.verl.recipe import Paths, compose, load_recipe, verl_tree

SEQUENCES = 8


def worker(given):
    """Build verl's worker from the composed configuration as ``ActorRolloutRefWorker.init_model`` does."""
    run = Path("run")
    recipe = load_recipe(given["recipe"], given["overrides"])
    config = compose(overrides_of(verl_tree(recipe, Paths(run, Path(given["model"]), run, run), "worker")))
    part = config.actor_rollout_ref
    actor = omega_conf_to_dataclass(part.actor)
    actor.model_config = omega_conf_to_dataclass(part.model)
    actor.optim.total_training_steps = 10
    engine = actor.fsdp_config
    engine.use_dynamic_bsz = True
    engine.max_token_len_per_gpu = engine.infer_max_token_len_per_gpu = actor.ppo_max_token_len_per_gpu
    made = TrainingWorker(
        TrainingWorkerConfig(
            model_type="language_model",
            model_config=actor.model_config,
            engine_config=engine,
            optimizer_config=actor.optim,
            checkpoint_config=actor.checkpoint,
        )
    )
    made.reset()
    made.set_loss_fn(partial(ppo_loss, config=actor))
    return made


def sequences(vocabulary):
    """Return (ids, prompt length, response mask) of each sequence, the same on all ranks."""
    generator = torch.Generator().manual_seed(7)
    rows = []
    for _ in range(SEQUENCES):
        prompt, response = (int(torch.randint(20, 60, (1,), generator=generator)) for _ in range(2))
        mask = (torch.rand(response, generator=generator) > 0.3).long()  # tool tokens are not trained
        mask[0] = 1
        rows.append((torch.randint(3, vocabulary, (prompt + response,), generator=generator), prompt, mask))
    return rows


def batch(rows):
    """Return verl's nested tensors of some sequences."""

    def nested(tensors):
        return torch.nested.as_nested_tensor(tensors, layout=torch.jagged)

    return tensordict_utils.get_tensordict(
        {
            "input_ids": nested([ids for ids, _, _ in rows]),
            "position_ids": nested([torch.arange(len(ids)) for ids, _, _ in rows]),
            "prompts": nested([ids[:prompt] for ids, prompt, _ in rows]),
            "responses": nested([ids[prompt:] for ids, prompt, _ in rows]),
            "response_mask": nested([mask for _, _, mask in rows]),
            "loss_mask": nested([torch.cat([torch.zeros(prompt, dtype=torch.long), mask]) for _, prompt, mask in rows]),
        },
        non_tensor_dict={"temperature": 0.7},
    )


def inferred(made, rows):
    """Return log-probs and entropies as verl's log-prob pass asks for them."""
    asked = batch(rows)
    tensordict_utils.assign_non_tensor(asked, calculate_entropy=True, compute_loss=False)
    return made.infer_batch(asked)


def gathered(tensors, ranks):
    """Return the sum of each sequence's values, of all ranks."""
    lists = [None] * ranks
    dist.all_gather_object(lists, [one.sum().item() for one in tensors.unbind()])
    return [round(value, 3) for one in lists for value in one]


def main(given):
    made = worker(given)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    if given["load"]:
        made.load_checkpoint(given["load"])
    vocabulary = json.loads((Path(given["model"]) / "config.json").read_text())["vocab_size"]
    share = SEQUENCES // ranks
    rows = sequences(vocabulary)[rank * share : (rank + 1) * share]
    answer = inferred(made, rows)
    trained = batch(rows)
    trained["old_log_probs"] = trained["ref_log_prob"] = response_from_nested(
        answer["log_probs"], trained["response_mask"]
    )
    trained["advantages"] = torch.nested.as_nested_tensor(
        [torch.full((len(mask),), (-1.0) ** (rank * share + number)) for number, (_, _, mask) in enumerate(rows)],
        layout=torch.jagged,
    )
    tensordict_utils.assign_non_tensor(
        trained,
        global_batch_size=SEQUENCES,
        mini_batch_size=SEQUENCES,
        epochs=1,
        calculate_entropy=False,
        dataloader_kwargs={"shuffle": False},
        seed=42,
    )
    metrics = tensordict_utils.get(made.train_mini_batch(trained), "metrics")
    if given["save"]:
        made.save_checkpoint(given["save"], global_step=1)
    result = {
        "log_probs": gathered(answer["log_probs"], ranks),
        "entropies": gathered(answer["entropy"], ranks),
        "after": gathered(inferred(made, rows)["log_probs"], ranks),
        "grad_norm": metrics["grad_norm"],
    }
    if rank == 0:
        print("RESULT", json.dumps(result), flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
