"""The student model: its chat template, its tokenizer, its first weights."""
