"""The training engine: N learners, their mixture, checkpoints; it knows no tracker and no orchestrator."""
