"""Ways to and from the Hugging Face hub and KerasHub. `import keras_smlp` imports none of it."""
