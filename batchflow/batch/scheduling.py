"""The schedule that a workflow declares, and the parameters of its schedules."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from pydantic import BaseModel

from batchflow.batch.arguments import check_params, check_source
from batchflow.batch.definition import Definition
from batchflow.core.schedule import NewSchedule
from batchflow.errors import BatchflowError, ConfigurationError, InputError
from batchflow.serve.validation import format_value, validate_headers, validate_label

ReadParams: TypeAlias = Callable[[Mapping[str, Any]], BaseModel]
"""Reads parameters from their JSON object."""


def check_declared_schedule(definition: Definition) -> None:
    """Raise `ConfigurationError` if the schedule of a class does not fit it.

    Parameters that it gives as JSON are read when the workflow is added.
    """
    if definition.schedule is not None and not isinstance(definition.schedule.params, Mapping):
        declared_schedule(definition, _read_nothing)


def _read_nothing(fields: Mapping[str, Any]) -> BaseModel:
    raise AssertionError(fields)


def declared_schedule(definition: Definition, read: ReadParams) -> NewSchedule | None:
    """The schedule that the class declares; its id is the name of the workflow.

    Raises:
        ConfigurationError: the parameters or an option do not fit.
    """
    schedule = definition.schedule
    if schedule is None:
        return None
    try:
        return NewSchedule(
            id=definition.name,
            target=definition.name,
            destination=definition.routes.process,
            cron=schedule.times,
            starts="batch",
            payload=schedule_params(definition, schedule.params, schedule.payload, read),
            overlap=schedule.overlap,
            label=validate_label(schedule.label),
            headers=validate_headers(schedule.headers),
            declared=True,
        )
    except BatchflowError as error:
        raise ConfigurationError(f"{definition.class_name}.schedule: {error}") from error


def schedule_params(definition: Definition, params: object, payload: object, read: ReadParams) -> str:
    """Check the parameters of a schedule, a model or its JSON object; returns their JSON text.

    Raises:
        InputError: they do not fit, or the workflow has no source of ids.
    """
    check_source(definition)
    if payload is not None:
        raise InputError(f"belongs to functions, and '{definition.name}' takes 'params'", option="payload")
    if params is None or isinstance(params, BaseModel):
        checked = check_params(definition, params)
    elif isinstance(params, Mapping):
        checked = read(cast("Mapping[str, Any]", params))
    else:
        want = f"write {definition.params.__name__}(…), or its JSON object"
        raise InputError(option="params", got=format_value(params), want=want)
    return definition.params_codec.round_trip(checked, where=f"the parameters of '{definition.name}'")[0]
