"""What a network has learned: features, Grad-CAM, pictures. May import inference and below."""
