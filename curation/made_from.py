"""What images of a generator come from: words alone have no source, and of the others the sources must be named."""

WORDS, ADAPTER, ADAPTER_AND_WORDS = MADE_FROM = ("words", "adapter", "adapter and words")
