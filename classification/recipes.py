"""The recipes by which a classifier is made, with their learning rates, and the uses of synthetic images."""

RECIPES = ("finetune", "linear_probe", "lora")
LEARNING_RATES = {"finetune": 1e-4, "lora": 1e-3}  # the paper's; low-rank updates need a higher one
LAST_LEARNING_RATE = 1e-6  # the paper's, after the last epoch
USES = ("terms", "prior", "data")  # of synthetic images: see classification/synthetic_teachers.py
# Subjects that all images of a condition count as, as a prior, if an adapter saw its photographs: the best of five on
# tuning people, among whom every weight cost accuracy (benchmarks/word_image_gain.py --part tuning).
PRIOR_WEIGHT = 0.25
