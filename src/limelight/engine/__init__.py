"""How a model is run: the only folder that calls it."""
