"""What tests share: small networks, photos, checkpoints and processes. Imports the package only."""
