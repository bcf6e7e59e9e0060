"""The `Upstash-Workflow-*` headers of a request, each with its grammar."""

from dataclasses import dataclass
from typing import get_args

from batchflow.wire.envelope import CallType
from batchflow.wire.header_values import LATEST_S, is_number, read_items
from batchflow.wire.publish_headers import PublishHeaders, check_name, check_url, refusal, wrong_value

RUN_ID = "upstash-workflow-runid"
"""The header with the id of a run."""

SDK_VERSION = "upstash-workflow-sdk-version"
"""The header with which an SDK tells a delivery of a run that goes on from its first contact."""

TRIGGER_ON_CONFIG = "WF_TriggerOnConfig"
"""The feature by which the engine gives the settings of a run to all its posts."""

_PROTOCOL = "1"
_NEED_RUN = ("init", "calltype", "invoke", "trigger-by-sdk", "createdat")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """The workflow run of a request, as its headers name it.

    With `init` the run begins; else it has begun, at `created_at` (ms) if the sender knows that. With `invoke` another
    run waits for its end. `answers_contact`: the endpoint answers its first contact with a run that has begun.
    """

    run: str
    url: str | None = None
    init: bool = False
    call_type: CallType = "step"
    created_at: int | None = None
    features: tuple[str, ...] = ()
    invoke: bool = False
    answers_contact: bool = False


def read_run(given: PublishHeaders) -> RunRequest | None:
    """The run of a request; None if it has no headers of one.

    Raises:
        InputError: a header is not valid, or one that belongs to a run is there without the id of the run.
    """
    run = given.get(RUN_ID)
    if run is None:
        for name in _NEED_RUN:
            if given.get(f"upstash-workflow-{name}") is not None:
                raise refusal(f"'{RUN_ID}' is missing; it goes with 'upstash-workflow-{name}'", RUN_ID)
        return None
    version, url = given.get(SDK_VERSION), given.get("upstash-workflow-url")
    if version not in (None, _PROTOCOL):
        raise wrong_value(SDK_VERSION, version, f"this server has version {_PROTOCOL} of the protocol of workflows")
    request = RunRequest(
        run=check_name(run, RUN_ID),
        url=None if url is None else check_url(url, "upstash-workflow-url"),
        init=_read_flag(given, "init"),
        call_type=_read_call_type(given),
        created_at=_read_created_at(given),
        features=_read_features(given),
        invoke=_read_flag(given, "invoke"),
        answers_contact=_read_flag(given, "trigger-by-sdk"),
    )
    if not request.init and (request.invoke or request.answers_contact):
        name = "invoke" if request.invoke else "trigger-by-sdk"
        sentence = f"'upstash-workflow-{name}' goes with a run that begins; send 'upstash-workflow-init: true'"
        raise refusal(sentence, "upstash-workflow-init")
    return request


def _read_flag(given: PublishHeaders, name: str) -> bool:
    header = f"upstash-workflow-{name}"
    text = (given.get(header) or "false").lower()
    if text not in ("true", "false"):
        raise wrong_value(header, text, "write true or false")
    return text == "true"


def _read_call_type(given: PublishHeaders) -> CallType:
    header = "upstash-workflow-calltype"
    text = given.get(header)
    if text is None:
        return "step"
    for known in get_args(CallType):
        if text == known:
            return known
    raise wrong_value(header, text, f"write one of {', '.join(get_args(CallType))}")


def _read_created_at(given: PublishHeaders) -> int | None:
    header = "upstash-workflow-createdat"
    text = given.get(header)
    if text is None:
        return None
    if not is_number(text, LATEST_S * 1000):
        raise wrong_value(header, text, "write the time in ms at which the run began, as its deliveries have it")
    return int(text)


def _read_features(given: PublishHeaders) -> tuple[str, ...]:
    text = given.get("upstash-feature-set")
    return () if text is None else tuple(check_name(it, "upstash-feature-set") for it in read_items(text))
