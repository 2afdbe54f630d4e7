"""A trained model run with its image or texts taken away."""
