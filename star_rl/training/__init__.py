"""The stages that train and sample the student."""
