"""Everything that measures. May import keras_smlp, reference and tools; nothing imports it."""
