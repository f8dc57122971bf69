"""From probabilities to numbers with intervals."""
