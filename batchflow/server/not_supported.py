"""The routes of workflow runs, which are refused with a sentence."""

from fastapi import APIRouter, Response

from batchflow.errors import InputError

router = APIRouter(include_in_schema=False)

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
# The SDKs take a 400 for a run that was cancelled.
_NOT_IMPLEMENTED = 501


@router.api_route("/v2/workflows/{path:path}", methods=_METHODS)
async def refuse_workflows() -> Response:
    """Workflow runs are not there yet."""
    raise InputError(
        "workflow runs are not served yet; publish messages with POST /v2/publish instead", status=_NOT_IMPLEMENTED
    )
