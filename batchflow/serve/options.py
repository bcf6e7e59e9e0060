"""The options of `@flow.serve`."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar, cast

from batchflow.core.duration import Duration
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.errors import ConfigurationError
from batchflow.serve.checks import check_flow, check_parser, check_retry, check_texts, checked_label, limit_ms
from batchflow.serve.showing import shown
from batchflow.serve.surroundings import Surroundings
from batchflow.serve.urls import check_url

Payload = TypeVar("Payload")


class Serving(TypedDict, total=False):
    """What `Batchflow.serve` may be given; see there."""

    retry: RetryPolicy | None
    retries: int | None
    retry_delay: RetryPolicy | Duration | None
    flow_control: FlowControl | None
    timeout: Duration | None
    failure_function: Callable[..., Any] | None
    failure_url: str | None
    initial_payload_parser: Callable[[str], Any] | None
    label: str | None
    verbose: bool
    url: str | None
    base_url: str | None
    env: Mapping[str, str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions(Generic[Payload]):
    """The same, checked, with what is not given at its default.

    Raises:
        ConfigurationError: an option is wrong, or two exclude each other.
    """

    retry: RetryPolicy | None = None
    retries: int | None = None
    retry_delay: RetryPolicy | Duration | None = None
    flow_control: FlowControl | None = None
    timeout: Duration | None = None
    failure_function: Callable[..., Any] | None = None
    failure_url: str | None = None
    initial_payload_parser: Callable[[str], Payload] | None = None
    label: str | None = None
    verbose: bool = False
    url: str | None = None
    base_url: str | None = None
    env: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.retry is not None and not (self.retries is None and self.retry_delay is None):
            raise ConfigurationError("'retry' is a whole policy; give either it, or 'retries' and 'retry_delay'")
        check_retry(self.retry)
        self.policy()
        check_flow(self.flow_control)
        limit_ms(self.timeout)
        self._check_failure()
        check_parser(self.initial_payload_parser)
        checked_label(self.label, ConfigurationError)
        # None would be the default of every other option.
        if not isinstance(cast("object", self.verbose), bool):
            raise ConfigurationError(f"'verbose' cannot be {shown(self.verbose)}; write True or False")
        check_url("url", self.url)
        check_url("base_url", self.base_url)
        check_texts("env", self.env)

    def _check_failure(self) -> None:
        if self.failure_function is not None and self.failure_url is not None:
            raise ConfigurationError("'failure_function' and 'failure_url' exclude each other; give one of them")
        check_url("failure_url", self.failure_url, bare=False)
        if self.failure_function is not None and not callable(self.failure_function):
            raise ConfigurationError(f"'failure_function' cannot be {shown(self.failure_function)}; write a function")
        # Delivered with the operations on dead letters, which are not there yet: better refused than never called.
        for option in ("failure_function", "failure_url"):
            if getattr(self, option) is not None:
                raise ConfigurationError(
                    f"'{option}' is not delivered by this version of batchflow; leave it out, "
                    f"and read failed runs with flow.runs(state='failed')"
                )

    def policy(self) -> RetryPolicy:
        """How the function and its steps are retried."""
        return self.retry or RetryPolicy.of(retries=self.retries, delay=self.retry_delay)

    def surroundings(self, route: str) -> Surroundings:
        """Where the function stands."""
        return Surroundings(
            route=route, url=self.url, base_url=self.base_url, env=os.environ if self.env is None else self.env
        )


DEFAULTS: ServeOptions[Any] = ServeOptions()
