"""The judge: metrics as the official evaluator defines them, protocols, and what is built on them."""
