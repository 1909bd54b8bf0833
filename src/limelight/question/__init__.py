"""Questions about a model: targets, baselines, players, random numbers."""
