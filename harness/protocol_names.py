"""The names of the two evaluation protocols."""

PROTOCOLS = ("strict", "paper")
