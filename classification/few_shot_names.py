"""The modes, heads and rules of few-shot recognition and retrieval by name."""

MODES = ("train", "frozen", "gallery")
HEADS = ("cosine", "centred_mean", "shrunken_centroid", "discriminant")
KNOWING_HEAD = "discriminant_with_terms"  # with --knowledge terms, a fifth head
TRAINED_HEAD = "prototypes"  # of --mode train, and of the paper: Euclidean distance to class means
TRANSDUCTIVE_HEAD = "pt_map"  # looks at all queries of an episode: it answers alone, and its results are kept apart
GREY_VIEWS = ("as it is", "mirrored", "grey", "grey, mirrored")  # of a picture at test time
CROPS = ("middle", "top left", "top right", "bottom left", "bottom right")  # each of CROPPED_SIDE of the side
CROPPED_SIDE = 0.875
CROPPED_VIEWS = tuple(f"{crop}{mirrored}" for crop in CROPS for mirrored in ("", ", mirrored"))
VIEWS = {1: GREY_VIEWS[:1], 2: GREY_VIEWS[:2], 4: GREY_VIEWS, 10: CROPPED_VIEWS}  # by their number
FILLED_UP_TO = 10  # the paper's: images per training condition, synthetic ones included
PAPER_EPOCHS, PAPER_LEARNING_RATE = 10, 1e-3
PAPER_TRAIN_EPISODES, PAPER_VAL_EPISODES, PAPER_TEST_EPISODES = 600, 100, 200  # per epoch, per epoch, per fold
