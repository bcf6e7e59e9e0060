"""The batches behind HTTP: `uvicorn examples.welcome_placeholder.main:app`."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException

from examples.welcome_placeholder import flow, text_model, users
from examples.welcome_placeholder.repository import Placeholders


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """The engine stops before the model that its work asks is closed."""
    try:
        async with flow.lifespan(app):
            yield
    finally:
        await text_model.aclose()


app = FastAPI(title="Welcome placeholders", lifespan=lifespan)
app.include_router(flow.router, prefix="/api/workflows")


@app.get("/users/{user_id}/placeholders")
def placeholders(user_id: str) -> Placeholders:
    """What stands in the user's empty message box."""
    found = users().placeholders(user_id)
    if found is None:
        raise HTTPException(404, f"'{user_id}' has no placeholders yet")
    return found
