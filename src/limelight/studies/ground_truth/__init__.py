"""Ground truth without downloads: hand-set networks, patterns, scenes with masks, mosaics, nets trained on them."""
