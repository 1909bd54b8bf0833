"""Cases with a known answer, without downloads: hand-set networks, patterns, scenes, mosaics, trained networks."""
