"""Sources -> batches. TensorFlow is imported only here, in `pipeline`."""
