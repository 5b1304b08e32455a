"""Image files to batches by tf.data: decode, augment, mix."""
