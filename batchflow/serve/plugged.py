"""Objects that an app may bring along: a store, a ledger, a clock, a transport."""

from batchflow.errors import ConfigurationError
from batchflow.serve.validation import format_value, type_with_article


def check_plugged(option: str, value: object, method: str, want: str) -> None:
    """Raise `ConfigurationError` unless `value` is None or an object with this method, which its class is not."""
    if value is not None and (isinstance(value, type) or not callable(getattr(value, method, None))):
        # Whatever else it is may hold a password.
        got = format_value(value) if isinstance(value, type | int) else type_with_article(value)
        raise ConfigurationError(option=option, got=got, want=want)
