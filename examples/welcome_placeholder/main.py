"""The batches behind HTTP: `uvicorn examples.welcome_placeholder.main:app`."""

from fastapi import FastAPI, HTTPException

from examples.welcome_placeholder import flow, users
from examples.welcome_placeholder.repository import Placeholders

app = FastAPI(title="Welcome placeholders", lifespan=flow.lifespan)
app.include_router(flow.router, prefix="/api/workflows")


@app.get("/users/{user_id}/placeholders")
def placeholders(user_id: str) -> Placeholders:
    """What stands in the user's empty message box."""
    found = users().placeholders(user_id)
    if found is None:
        raise HTTPException(404, f"'{user_id}' has no placeholders yet")
    return found
