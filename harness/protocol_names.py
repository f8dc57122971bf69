"""The names of the two evaluation protocols, for --help and refusals that need no heavy import."""

PROTOCOLS = ("strict", "paper")  # the default first
