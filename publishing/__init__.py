"""What may leave, and how it gets to the Hub and back out of it."""
