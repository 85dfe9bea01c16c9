"""Templates and an optimizer for ms-swift, loaded through `external_plugins`.

Stock `qwen3` with `hermes` differs from Qwen3's own chat template and from verl's token builder in four places: an
empty think block on every turn, no newline between text and `<tool_call>`, a blank line before `# Tools` where there is
no system message, and the newline after `<|im_end|>` being trained. With the names registered here, ids and loss mask
of an SFT row equal those of the rollout.

Importing this module registers everything (ms-swift imports it as a file).
"""

from __future__ import annotations

from typing import Any

import torch
from swift.agent_template import agent_template_map
from swift.agent_template.hermes import HermesAgentTemplate
from swift.optimizers import OptimizerCallback, optimizers_map
from swift.template import register_template
from swift.template.templates.qwen import Qwen3MixedTemplateMeta, QwenTemplateMeta
from torch.optim import AdamW, Muon, Optimizer

#: The project's chat form: no think blocks; pairs with chat template kwargs `{}`.
TEMPLATE = "star"
#: For a Qwen3 that keeps its thinking mode; pairs with `enable_thinking: false`.
TEMPLATE_THINKING = "star_thinking"
AGENT_TEMPLATE = "star_hermes"
OPTIMIZER = "star_muon"


class StarAgentTemplate(HermesAgentTemplate):
    """Hermes as Qwen3's own chat template renders it (upstream: swift/agent_template/hermes.py)."""

    def _add_tool_call_prefix(self, tool_content: str, pre_message: dict[str, Any] | None = None) -> str:
        follows_text = bool(pre_message and pre_message.get("role") == "assistant" and pre_message.get("content"))
        return "\n" + tool_content if follows_text else tool_content

    def _format_tools(self, tools: list[Any], system: str | None = None, user_message: Any = None) -> str:
        text: str = super()._format_tools(tools, system, user_message)
        return text if system else text.lstrip("\n")


class MuonAdamW(Optimizer):
    """Muon for the hidden matrices, AdamW for the rest, behind one optimizer.

    The parameter groups are those of the two inner optimizers, so a schedule reaches both and keeps their ratio.
    """

    def __init__(self, muon: Muon, adamw: AdamW) -> None:
        self.muon, self.adamw = muon, adamw
        super().__init__([*muon.param_groups, *adamw.param_groups], {})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.muon.step()
        self.adamw.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]


def split_parameters(model: torch.nn.Module) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """Return the trainable parameters as (hidden matrices, all others: embedding, head, norms)."""
    hidden: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            matrix = p.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name
            (hidden if matrix else rest).append(p)
    return hidden, rest


def parse_optim_args(text: str | None) -> dict[str, float]:
    """Parse `muon_lr=1.5e-2,momentum=0.95`. Known keys: muon_lr, momentum."""
    pairs = dict(part.split("=", 1) for part in (text or "").replace(" ", "").split(",") if part)
    unknown = set(pairs) - {"muon_lr", "momentum"}
    if unknown:
        raise ValueError(f"optim_args: unknown key {sorted(unknown)[0]!r}; {OPTIMIZER} knows muon_lr and momentum")
    return {k: float(v) for k, v in pairs.items()}


class MuonCallback(OptimizerCallback):
    """`--optimizer star_muon`: AdamW takes `learning_rate`, Muon takes `muon_lr` of `optim_args` (default 1.5e-2).

    ms-swift's own `muon` clones a repository when it starts and has one learning rate for both parts.
    """

    def create_optimizer(self, model: torch.nn.Module | None = None) -> Optimizer:
        args = self.args
        model = self.trainer.model if model is None else model
        own = parse_optim_args(args.optim_args)
        hidden, rest = split_parameters(model)
        muon = Muon(
            hidden,
            lr=own.get("muon_lr", 1.5e-2),
            momentum=own.get("momentum", 0.95),
            weight_decay=args.weight_decay,
        )
        adamw = AdamW(
            rest,
            lr=args.learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            weight_decay=args.weight_decay,
            fused=True,
        )
        return MuonAdamW(muon, adamw)


def register() -> None:
    """Register the names above. Idempotent."""
    agent_template_map[AGENT_TEMPLATE] = StarAgentTemplate
    optimizers_map[OPTIMIZER] = MuonCallback
    common = {"suffix": ["<|im_end|>"], "agent_template": AGENT_TEMPLATE, "default_system": None}
    register_template(QwenTemplateMeta(TEMPLATE, **common), exist_ok=True)
    register_template(Qwen3MixedTemplateMeta(TEMPLATE_THINKING, is_thinking=True, **common), exist_ok=True)


register()
