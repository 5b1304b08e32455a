"""What tests share: small networks, photos, checkpoints, short trainings and processes."""
