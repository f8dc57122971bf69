"""The modes, heads and rules of few-shot recognition and retrieval by name."""

MODES = ("train", "frozen", "gallery")
HEADS = ("cosine", "centred_mean", "shrunken_centroid", "discriminant")
KNOWING_HEAD = "discriminant_with_terms"  # with --knowledge terms, a fifth head
TRAINED_HEAD = "prototypes"  # of --mode train, and of the paper: Euclidean distance to class means
VIEWS = ("as it is", "mirrored", "grey", "grey, mirrored")  # of a picture at test time
FILLED_UP_TO = 10  # the paper's: images per training condition, synthetic ones included
PAPER_EPOCHS, PAPER_LEARNING_RATE = 10, 1e-3
PAPER_TRAIN_EPISODES, PAPER_VAL_EPISODES, PAPER_TEST_EPISODES = 600, 100, 200  # per epoch, per epoch, per fold
