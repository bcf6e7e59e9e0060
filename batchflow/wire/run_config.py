"""The settings that the posts of a workflow run share, and how its posts get them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from batchflow.core.codec import Codec
from batchflow.core.secrets import marked_text, unmarked_text
from batchflow.wire.envelope import CallbackTarget, Envelope, HeaderPairs
from batchflow.wire.run_headers import SDK_VERSION, TRIGGER_ON_CONFIG

_OF_RUN = ("upstash-workflow-", "upstash-feature-set")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """The settings that the posts of a run share, as its first request gives them; they are kept with the run.

    With `applies` (`WF_TriggerOnConfig`) the engine gives them to each step and to the callback of a call; without it
    each request has its own, and these are for listings and for the failure callback of a post that has none.
    `content_type` is that of the initial body. `resumed` is the id of the dead letter from which the run goes on.
    """

    applies: bool = False
    features: tuple[str, ...] = ()
    headers: HeaderPairs = field(default=(), repr=False)
    content_type: str | None = None
    retries: int = 3
    retry_delay: str | None = None
    timeout_ms: int | None = None
    failure_callback: CallbackTarget | None = None
    flow_key: str | None = None
    parallelism: int | None = None
    rate: int | None = None
    period_s: int = 1
    labels: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    caller_ip: str | None = None
    resumed: str | None = None

    @classmethod
    def of(cls, envelope: Envelope, features: Sequence[str]) -> "RunConfig":
        """The configuration that the envelope of a first request gives to its run."""
        return cls(
            applies=TRIGGER_ON_CONFIG in features,
            features=tuple(features),
            headers=envelope.headers,
            content_type=envelope.content_type,
            retries=envelope.retries,
            retry_delay=envelope.retry_delay,
            timeout_ms=envelope.timeout_ms,
            failure_callback=_without_run(envelope.failure_callback),
            flow_key=envelope.flow_key,
            parallelism=envelope.parallelism,
            rate=envelope.rate,
            period_s=envelope.period_s,
            labels=envelope.labels,
            redact=envelope.redact,
            caller_ip=envelope.caller_ip,
        )

    def to_text(self) -> str:
        """As JSON text, all of which is a secret value."""
        return marked_text(run_config_codec().encode(self))

    @classmethod
    def of_text(cls, text: str) -> "RunConfig":
        """The configuration of this text."""
        return run_config_codec().decode(unmarked_text(text))

    def adopted(self, envelope: Envelope, features: Sequence[str]) -> "RunConfig":
        """The configuration after the answer to first contact: its headers and features replace those of the trigger,
        all else stays that the trigger has set.
        """
        return replace(
            self,
            applies=TRIGGER_ON_CONFIG in features,
            features=tuple(features),
            headers=envelope.headers,
            labels=self.labels or envelope.labels,
            timeout_ms=self.timeout_ms or envelope.timeout_ms,
        )

    def applied(self, envelope: Envelope) -> Envelope:
        """The envelope of a post with these settings; a header that it forwards itself stays as it is."""
        own = {name.lower() for name, _ in envelope.headers}
        return replace(
            envelope,
            headers=(*envelope.headers, *((name, value) for name, value in self.headers if name.lower() not in own)),
            retries=self.retries,
            retry_delay=self.retry_delay,
            timeout_ms=self.timeout_ms,
            failure_callback=self.failure_callback,
            flow_key=self.flow_key,
            parallelism=self.parallelism,
            rate=self.rate,
            period_s=self.period_s,
            labels=self.labels,
            redact=tuple(dict.fromkeys((*envelope.redact, *self.redact))),
        )

    def without_version(self) -> "RunConfig":
        """The configuration for posts that are not about steps, which endpoints tell by the version of the SDK."""
        return replace(self, headers=tuple(it for it in self.headers if it[0].lower() != SDK_VERSION))


def _without_run(target: CallbackTarget | None) -> CallbackTarget | None:
    """The failure callback without the id of its run: the configuration may become that of another run."""
    if target is None:
        return None
    headers = {name: value for name, value in target.headers.items() if not name.startswith(_OF_RUN)}
    return replace(target, headers=headers)


def run_config_codec() -> Codec[RunConfig]:
    """The codec of configurations, built with the first use and not at import."""
    return Codec.of(RunConfig)
