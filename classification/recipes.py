"""The recipes by which a classifier is made, with their learning rates."""

RECIPES = ("finetune", "linear_probe", "lora")
LEARNING_RATES = {"finetune": 1e-4, "lora": 1e-3}  # the paper's; low-rank updates need a higher one
LAST_LEARNING_RATE = 1e-6  # the paper's, after the last epoch
