"""A number with its noun in the singular or plural."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """ "1 image", "2 images"; plural: of a noun that takes more than an s, as in people."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
