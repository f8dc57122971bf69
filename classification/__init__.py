"""Pretrained networks, classifiers on them, and what a run of them leaves."""
