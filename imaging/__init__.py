"""What is done with one picture, or with two."""
