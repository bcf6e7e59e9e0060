"""Values that several headers have: whole numbers, and the limits of flow control."""

MAX_NUMBER = 999_999_999
"""The largest number without a limit of its own."""

LATEST_S = 253_402_300_799
"""The last second of the year 9999."""

FLOW_HINT = "write parallelism=N, rate=N or both, and period=1m where the rate is not per second"
"""The form of `Upstash-Flow-Control-Value`."""


def is_number(text: str, most: int = MAX_NUMBER) -> bool:
    """True for the digits of a whole number that is at most `most`."""
    return text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= most


def read_items(text: str) -> list[str]:
    """The items of a list with commas, without spaces around them."""
    return [item for part in text.split(",") if (item := part.strip())]


def limit_texts(value: str) -> dict[str, str] | None:
    """The texts of the parallelism, the rate and the period in the value of `Upstash-Flow-Control-Value`.

    None if it has another part, or one of them twice.
    """
    texts: dict[str, str] = {}
    for item in read_items(value):
        name, _, text = (it.strip() for it in item.partition("="))
        if name in texts or name not in ("parallelism", "rate", "period"):
            return None
        texts[name] = text
    return texts
