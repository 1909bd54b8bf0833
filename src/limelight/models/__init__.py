"""What is explained: models by name, pictures, black boxes, weights, the embedded networks."""
