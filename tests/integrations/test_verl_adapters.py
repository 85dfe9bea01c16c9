"""Adapters in a checkpoint of FSDP2 are merged into the model that training started from."""

import json
from types import SimpleNamespace

import pytest

from star_rl.errors import StarError

pytestmark = pytest.mark.engine
ALPHA, R = 16, 4


class ShardOfTwo:
    """What is read of a DTensor, sharded over the second dimension of a mesh of one replica and two ranks.

    tests/integrations/test_verl_worker.py has verl's own.
    """

    def __init__(self, part):
        import torch
        from torch.distributed.tensor import Replicate, Shard

        self._local_tensor, self.placements = part.contiguous(), (Replicate(), Shard(0))
        self.device_mesh = SimpleNamespace(mesh=torch.tensor([[0, 1]]))


@pytest.fixture
def saved(tmp_path):
    """A model, and a checkpoint as two ranks of verl write it: (model folder, checkpoint, policy, ids)."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8, "vocab_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    model = Qwen3ForCausalLM(Qwen3Config(**sizes, **heads, initializer_range=0.3))
    model.save_pretrained(tmp_path / "model")
    policy = get_peft_model(model, LoraConfig(r=R, lora_alpha=ALPHA, target_modules="all-linear")).eval()
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    checkpoint = tmp_path / "actor"
    checkpoint.mkdir()
    for rank in range(2):
        shards = {name: ShardOfTwo(weight.chunk(2)[rank]) for name, weight in policy.state_dict().items()}
        torch.save(shards, checkpoint / f"model_world_size_2_rank_{rank}.pt")
    (checkpoint / "lora_train_meta.json").write_text(
        json.dumps({"r": R, "lora_alpha": ALPHA, "task_type": "CAUSAL_LM"})
    )
    return tmp_path / "model", checkpoint, policy, torch.randint(0, 64, (3, 7))


def test_the_student_answers_token_for_token_as_the_policy(saved, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from star_rl.integrations.verl.adapters import merge

    base, checkpoint, policy, ids = saved
    merge(checkpoint, base, tmp_path / "final")
    student, untrained = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "final", base))

    def answers(model):
        return model.generate(input_ids=ids, do_sample=False, max_new_tokens=20, eos_token_id=[-1], pad_token_id=0)

    assert answers(student).equal(answers(policy)) and not answers(untrained).equal(answers(policy))
    with torch.no_grad():
        assert torch.allclose(student(ids).logits, policy(ids).logits, atol=1e-4)
    assert not any("lora" in name for name, _ in student.named_parameters()) and student.config.tie_word_embeddings


def test_adapters_under_names_that_peft_does_not_know_are_refused(saved, tmp_path, monkeypatch):
    from star_rl.integrations.verl import adapters

    base, checkpoint, _, _ = saved
    found = adapters.read_adapters(checkpoint)
    renamed = {name.replace(".default", ".other"): value for name, value in found.items()}
    monkeypatch.setattr(adapters, "read_adapters", lambda _: renamed)
    with pytest.raises(StarError, match="has no adapters of"):
        adapters.merge(checkpoint, base, tmp_path / "final")
