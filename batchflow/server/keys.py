"""The routes of the signing keys."""

from fastapi import APIRouter

from batchflow.engine.signing_keys import KeyPair, SigningKeys
from batchflow.server.context import Context, ServerContext, Tenant
from batchflow.server.wire_model import WireModel

router = APIRouter(prefix="/v2/keys", tags=["signing keys"])


class KeysInfo(WireModel):
    """The key that signs now, and the one that follows it. Receivers accept both."""

    current: str
    next: str

    @classmethod
    def of(cls, keys: KeyPair) -> "KeysInfo":
        """The JSON of a tenant's keys."""
        return cls(current=keys.current, next=keys.next)

    def __repr_args__(self) -> list[tuple[str | None, object]]:
        return []


@router.get("", summary="The signing keys")
async def get_keys(context: Context, tenant: Tenant) -> KeysInfo:
    """They are made with the first use."""
    return KeysInfo.of(await _keys(context).of(tenant))


@router.post("/rotate", summary="Rotate the signing keys")
async def rotate_keys(context: Context, tenant: Tenant) -> KeysInfo:
    """The next key becomes the current one, and a new one the next. Deliveries are signed with it within 5 s."""
    return KeysInfo.of(await _keys(context).rotate(tenant))


def _keys(context: ServerContext) -> SigningKeys:
    return SigningKeys(context.wire, context.engine.entropy, context.now)
