"""The ms-swift side: templates, optimizer and the runner of `swift sft`."""
