"""One training run: configuration, step, engines, checkpoints. May import everything below it."""
