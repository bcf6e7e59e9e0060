"""How large a value may be: a payload, a result, what is sent with an event."""

from batchflow.errors import TooLarge

VARIABLE = "BATCHFLOW_MAX_VALUE"
_WIDEST = 4
# As many bytes one character has in UTF-8 at most.


class Limit:
    """At most so many bytes of JSON.

    A text of up to `sure` characters is within it; where that is all there is to know, one comparison knows it.
    """

    __slots__ = ("most", "sure")

    def __init__(self, most: int) -> None:
        self.most = most
        self.sure = most // _WIDEST

    def __repr__(self) -> str:
        return f"Limit({self.most})"

    def check(self, text: str, where: str) -> None:
        """Refuse the JSON text of a value that is larger; `where` says whose it is.

        Raises:
            TooLarge: it is.
        """
        if len(text) > self.sure and (size := len(text.encode())) > self.most:
            raise TooLarge(self.sentence(where, f"{size:,}"))

    def sentence(self, where: str, size: str) -> str:
        """What is said of a value of `size` bytes."""
        return (
            f"{where}: {size} bytes are more than {VARIABLE} allows ({self.most:,}); "
            f"store it elsewhere and pass a reference on, or raise the setting"
        )


DEFAULT = Limit(1_048_576)
UNLIMITED = Limit(2**62)
