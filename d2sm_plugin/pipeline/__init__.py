"""Training, testing and validation runs, checkpoints and logs."""
