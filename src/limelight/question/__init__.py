"""What is asked: targets, baselines, players, random numbers."""
