"""Models that draw faces, the images they leave, and how these enter a training."""
