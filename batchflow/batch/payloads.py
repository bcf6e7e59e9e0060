"""The payloads of the layers: reads, checks and encodes them. Their JSON names are camelCase."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeAlias, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, create_model
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError, from_json, to_json

from batchflow.batch.arguments import MAX_CANARY, BatchTrigger
from batchflow.batch.definition import Definition
from batchflow.batch.names import camel_case, field_names, wire_name
from batchflow.batch.source import CycleDetector
from batchflow.core.batch import MAX_PRIORITY
from batchflow.core.duration import DURATION_PATTERN, Duration, to_ms
from batchflow.core.failure_budget import MAX_COUNT, BudgetAction, FailureBudget
from batchflow.core.ids import BATCH_ID_PATTERN
from batchflow.core.secrets import misfit_reason
from batchflow.core.suggestions import did_you_mean
from batchflow.errors import ConfigurationError, InputError
from batchflow.serve.app_url import check_url
from batchflow.serve.trigger import Dedup
from batchflow.serve.validation import MAX_LABEL, MIN_TIMESTAMP_MS, parse_timestamp

Params = TypeVar("Params", bound=BaseModel)
Body = TypeVar("Body", bound="WireBody")


class WireBody(BaseModel):
    """The base of payloads. Fields have camelCase names in JSON, and default values are left out."""

    # No methods: a parameter of a workflow could not have the name of one.
    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, defer_build=True
    )


def encode_body(body: WireBody) -> str:
    """Return the JSON text of a payload."""
    return body.model_dump_json(by_alias=True, exclude_defaults=True)


def _text_or_number(value: object) -> object:
    if value is None or (isinstance(value, str | int) and not isinstance(value, bool)):
        return value
    raise PydanticCustomError("time", "Input should be a text or a whole number")


TextOrNumber: TypeAlias = Annotated[str | int | None, BeforeValidator(_text_or_number)]
"""The JSON form of a duration or a time."""


def _described(**form: Any) -> Any:
    """An option with a form in the schema, which is checked later with a sentence of its own."""
    return Field(default=None, json_schema_extra=form)


def _whole_number(value: object) -> object:
    # In JSON 2.0 is the integer 2.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise PydanticCustomError("whole_number", "Input should be a whole number")
    return value


_WholeNumber = BeforeValidator(_whole_number)


class FailureBudgetBody(BaseModel):
    """A failure budget. Give `maxFailures`, `maxRate` or both; the rate, a part of 1, applies from `minItems` on.

    `maxInARow` with `openFor`, such as "30s", is a circuit breaker, beside these or alone: then without an `action`.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="forbid", defer_build=True
    )

    max_failures: Annotated[int, Field(ge=0, le=MAX_COUNT), _WholeNumber] | None = None
    max_rate: Annotated[float, Field(ge=0, lt=1, strict=True)] | None = None
    min_items: Annotated[int, Field(ge=1, le=MAX_COUNT), _WholeNumber] = 50
    action: BudgetAction | None = None
    max_in_a_row: Annotated[int, Field(ge=1, le=MAX_COUNT), _WholeNumber] | None = None
    open_for: TextOrNumber = Field(default=None, json_schema_extra={"pattern": DURATION_PATTERN, "minimum": 0})


def parse_failure_budget(body: FailureBudgetBody | None) -> FailureBudget | None:
    """Return the budget of its JSON form.

    Raises:
        InputError: it has no limit.
    """
    try:
        return None if body is None else FailureBudget(**{name: getattr(body, name) for name in body.model_fields_set})
    except ConfigurationError as error:
        raise InputError(str(error), field="failureBudget") from error


class EntryOptions(WireBody):
    """The options of a trigger, beside the parameters of the workflow."""

    # A flag or number of another type is a slip, and each of these decides how much is done.
    dry_run: bool = Field(default=False, strict=True)
    force: bool = Field(default=False, strict=True)
    limit: int | None = Field(default=None, ge=1, strict=True)
    item_ids: list[str] | None = None
    label: str | None = _described(minLength=1, maxLength=MAX_LABEL)
    dedup_id: str | None = Field(default=None, min_length=1)
    dedup: Dedup = "kept"
    batch_id: str | None = _described(pattern=BATCH_ID_PATTERN)
    canary: int | None = Field(default=None, ge=1, le=MAX_CANARY, strict=True)
    approve_under: float | None = Field(default=None, ge=0, le=1, strict=True)
    delay: TextOrNumber = _described(pattern=DURATION_PATTERN, minimum=0)
    not_before: TextOrNumber = _described(format="date-time", minimum=MIN_TIMESTAMP_MS)
    headers: dict[str, str] | None = None
    notify_url: str | None = _described(format="uri")
    priority: int | None = Field(default=None, ge=0, le=MAX_PRIORITY, strict=True)
    confirm: bool = Field(default=False, strict=True)
    failure_budget: FailureBudgetBody | None = None


class EntryBody(WireBody):
    """The message of the entry. `total` is set if the trigger listed the ids, `missing` in such a retry.

    `canary` is the number of items of a canary that the walk starts.
    """

    force: bool = False
    limit: int | None = None
    total: int | None = None
    missing: bool = False
    canary: int = 0


class PaginateBody(WireBody):
    """One page of the walk, or a chunk of a page, whose `item_ids` are numbered from `first` on.

    `remaining` is how many items may still be started under the trigger's limit. `named` marks a chunk that the
    trigger has named itself, so that no page has counted it. `marked` are those ids of a chunk that the ledger held
    when its page was filtered, and that the filter has named all the same; `data` are the JSON texts of the items that
    the page has brought, in the order of the ids.

    `counted` is what `count` said, where the walk is to name as many; `eligible` and `to_process` are what the pages
    before this one have named, and what of it is to run.

    In a retry, `missing` marks a page of which only what no batch of its family has started is taken, and `again` are
    the numbers of the `item_ids` in the batch that it retries.

    `canary` is the number of items of a canary that the walk has not started yet; with `rest` the body is that of the
    items of a page that are left, before the page at `cursor`. With `walk_first` a page brings along the first items
    of the walk as `item_ids`.
    """

    cursor: str | None = None
    page: int = 0
    force: bool = False
    remaining: int | None = None
    probe: CycleDetector = CycleDetector()
    counted: int | None = None
    eligible: int = 0
    to_process: int = 0
    item_ids: list[str] | None = None
    first: int = 0
    named: bool = False
    marked: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    missing: bool = False
    again: tuple[int, ...] = ()
    canary: int = 0
    rest: bool = False


class ExecuteBody(WireBody):
    """One item outside of a batch."""

    item_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerRequest(Generic[Params]):
    """A trigger that was read from JSON."""

    params: Params
    dry_run: bool = False
    confirm: bool = False
    options: BatchTrigger = field(default_factory=BatchTrigger)


class Payloads:
    """Reads the payloads of one workflow; its models are created once.

    `entry_model` has the controls and the parameters side by side, for the schema of the HTTP interface.
    """

    def __init__(self, definition: Definition) -> None:
        self._params = definition.params
        self._has_secrets = definition.params_codec.has_secrets
        self._workflow = definition.name
        self._field_names = field_names(definition.params)
        self._camel_case_names = {camel_case(name): name for name in definition.params.model_fields}
        self._allows_extra = definition.params.model_config.get("extra") == "allow"
        id, ids = definition.wire.id, definition.wire.ids
        listed: Any = (list[str] | None, Field(default=None, alias=ids))
        single: Any = (str | None, Field(default=None, alias=id))
        self.entry_options_model = create_model(
            f"{definition.class_name}Controls", __base__=EntryOptions, item_ids=listed
        )
        self.paginate_model = create_model(f"{definition.class_name}Paginate", __base__=PaginateBody, item_ids=listed)
        self.execute_model = create_model(f"{definition.class_name}Execute", __base__=ExecuteBody, item_id=single)
        documented = _documented_fields(definition.params)
        self.entry_model = create_model(
            f"{definition.class_name}Entry", __base__=self.entry_options_model, **documented
        )

    def read_entry(self, fields: Mapping[str, JsonValue]) -> TriggerRequest[Any]:
        """Read a trigger from the fields of its JSON object.

        Raises:
            InputError: a field is unknown or does not fit; the sentence names it.
        """
        self._check_fields(fields, self.entry_options_model)
        options = self._model(self.entry_options_model, _select_fields(fields, self.entry_options_model))
        params_fields = {
            name: value for name, value in fields.items() if name not in _wire_names(self.entry_options_model)
        }
        return TriggerRequest(
            params=self._read_params(params_fields),
            dry_run=options.dry_run,
            confirm=options.confirm,
            options=BatchTrigger(
                force=options.force,
                limit=options.limit,
                ids=options.item_ids,
                label=options.label,
                dedup_id=options.dedup_id,
                dedup=options.dedup,
                batch_id=options.batch_id,
                canary=options.canary,
                approve_under=options.approve_under,
                delay=_parse_delay(options.delay),
                not_before=_parse_not_before(options.not_before),
                headers=options.headers,
                notify_url=_parse_notify_url(options.notify_url),
                priority=options.priority,
                failure_budget=parse_failure_budget(options.failure_budget),
            ),
        )

    def read_params(self, fields: Mapping[str, JsonValue]) -> Any:
        """Read parameters alone from the fields of their JSON object.

        Raises:
            InputError: a field is unknown or does not fit, or is an option of a trigger.
        """
        request = self.read_entry(fields)
        if request.dry_run or request.options != BatchTrigger():
            raise InputError("holds options of a trigger", option="params", want="write parameters only")
        return request.params

    def read_page(self, text: str | bytes) -> PaginateBody:
        """Read the payload of a page or chunk.

        Raises:
            InputError: the text is not a JSON object, or a field is unknown or does not fit.
        """
        fields = self._object(text)
        self._check_fields(fields, self.paginate_model)
        return self._model(self.paginate_model, _select_fields(fields, self.paginate_model))

    def read_item(self, text: str | bytes) -> tuple[str, Any]:
        """Read the id and parameters of an item outside of a batch; a missing id is empty.

        Raises:
            InputError: as for `read_page`.
        """
        fields = self._object(text)
        self._check_fields(fields, self.execute_model)
        body = self._model(self.execute_model, _select_fields(fields, self.execute_model))
        params_fields = {name: value for name, value in fields.items() if name not in _wire_names(self.execute_model)}
        return body.item_id or "", self._read_params(params_fields)

    def _check_fields(self, fields: Mapping[str, JsonValue], model: type[WireBody]) -> None:
        known = _wire_names(model)
        for name in fields:
            if name not in known and name not in self._field_names and not self._allows_extra:
                meant = did_you_mean(name, self._documented_names(model))
                raise InputError(f"Unknown field '{name}' for {self._workflow}{meant}", field=name)
        self._check_spellings(fields)

    def _check_spellings(self, fields: Mapping[str, JsonValue]) -> None:
        spelt: dict[str, str] = {}
        for name in fields:
            field = self._field_names.get(name)
            if field is not None and (other := spelt.setdefault(field, name)) != name:
                raise InputError(
                    f"'{name}' and '{other}' are the same parameter of {self._workflow}; give one of them", field=name
                )

    def _object(self, text: str | bytes) -> dict[str, JsonValue]:
        try:
            value: object = from_json(text) if text.strip() else {}
        except ValueError as error:
            raise InputError(f"The payload for {self._workflow} is not JSON: {error}") from error
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise InputError(f"The payload for {self._workflow} is a JSON object, not {type(value).__name__}")
        return cast("dict[str, JsonValue]", value)

    def _documented_names(self, model: type[WireBody]) -> list[str]:
        own = [field.alias or name for name, field in model.model_fields.items()]
        return [*own, *(wire_name(name, field) for name, field in self._params.model_fields.items())]

    def _read_params(self, params_fields: Mapping[str, JsonValue]) -> BaseModel:
        own = self._params.model_fields
        # camelCase names become field names; aliases belong to the model and stay.
        named = {self._camel_case_names.get(name, name): value for name, value in params_fields.items()}
        try:
            return self._params.model_validate_json(to_json(named), by_alias=True, by_name=True)
        except ValidationError as error:
            names = {name: wire_name(name, field) for name, field in own.items()}
            raise _input_error(error, names, secret=self._has_secrets) from error

    def _model(self, model: type[Body], fields: Mapping[str, JsonValue]) -> Body:
        try:
            return model.model_validate(fields)
        except ValidationError as error:
            raise _input_error(error, {}, secret=False) from error


def _parse_delay(value: str | int | None) -> Duration | None:
    """Check the JSON form of a delay: a duration such as "10s", or seconds."""
    if value is not None:
        try:
            to_ms(value, option="delay")
        except ConfigurationError as error:
            raise InputError(str(error), field="delay") from error
    return value


def _parse_notify_url(value: str | None) -> str | None:
    try:
        check_url("notifyUrl", value, no_query=False)
    except ConfigurationError as error:
        raise InputError(str(error), field="notifyUrl") from error
    return value


def _parse_not_before(value: str | int | None) -> datetime | None:
    """Parse the JSON form of a time: ISO 8601 with its offset, or ms since the epoch."""
    try:
        parsed = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(parsed, datetime) and parsed.tzinfo is None:
            raise ValueError
        # A smaller number must be seconds, since it would be a time long past.
        if parsed is None:
            return None
        ms = parse_timestamp(parsed, option="notBefore", now=MIN_TIMESTAMP_MS)
        return datetime.fromtimestamp(ms / 1000, UTC)
    except ConfigurationError as error:
        raise InputError(str(error), field="notBefore") from error
    except ValueError:
        raise InputError(
            f"'notBefore' cannot be {value!r}; write a time with its offset, such as '2030-01-01T00:00:00Z', or ms "
            f"since the epoch",
            field="notBefore",
        ) from None


def _wire_names(model: type[WireBody]) -> Iterable[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def _select_fields(fields: Mapping[str, JsonValue], model: type[WireBody]) -> dict[str, JsonValue]:
    known = _wire_names(model)
    return {name: value for name, value in fields.items() if name in known}


def _documented_fields(params: type[BaseModel]) -> dict[str, Any]:
    documented: dict[str, Any] = {}
    for name, info in params.model_fields.items():
        default = {} if info.is_required() else {"default": info.get_default(call_default_factory=True)}
        alias: Any = Field(alias=wire_name(name, info), description=info.description, **default)
        documented[name] = (info.rebuild_annotation(), alias)
    return documented


def _input_error(error: ValidationError, wire_names: Mapping[str, str], *, secret: bool) -> InputError:
    first = error.errors(include_url=False, include_context=False, include_input=secret)[0]
    place = [wire_names.get(str(part), str(part)) for part in first["loc"]]
    name = ".".join(place)
    reason = misfit_reason(first)
    sentence = f"'{name}' does not fit: {reason}" if name else reason
    return InputError(sentence, field=name or None)
