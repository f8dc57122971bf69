"""From the curator's table to a dataset that load_dataset opens, with its folds, its card and its guard."""
