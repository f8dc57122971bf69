"""Whether a report's diagnostic suggestion names the condition, by fuzzy matching as in the paper.

Every report is compared by its own text. (In the authors' notebook each synthetic report was compared by the real
report that had been read last, so that the published rate for synthetic images measures nothing.)"""

from collections.abc import Sequence

import numpy as np
from rapidfuzz import fuzz, process
from rapidfuzz.utils import default_process

LEAST_RATIO = 80  # the paper's threshold, of 100


def name_ratios(suggestions: Sequence[str | None], disease_names: Sequence[str]) -> np.ndarray:
    """How well each name occurs in each suggestion, (n, C) 0..100, without case and punctuation.

    It is rapidfuzz's partial ratio: the similarity of the name to the stretch of the text that fits it best. A text
    that is shorter than the name is compared as a whole, since "syndrome" would otherwise fit every name that ends with
    it. 0 for a missing suggestion."""
    texts = [default_process(text or "") for text in suggestions]
    names = [default_process(name) for name in disease_names]
    distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    partial = process.cdist(list(distinct), names, scorer=fuzz.partial_ratio, dtype=np.float32)
    whole = process.cdist(list(distinct), names, scorer=fuzz.ratio, dtype=np.float32)
    shorter = np.array([len(text) for text in distinct])[:, None] < np.array([len(name) for name in names])
    return np.where(shorter, whole, partial)[[distinct[text] for text in texts]]
