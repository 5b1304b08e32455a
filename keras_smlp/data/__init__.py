"""Image files to batches by tf.data: decode, augment, mix. May import preprocessing and checks."""
