"""A trained network made smaller, faster or portable: folding, int8, LoRA, 16 bits, export."""
