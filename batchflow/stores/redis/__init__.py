"""The store on Redis, for many workers on many machines; and its ledger by itself."""

from batchflow.stores.redis.ledger import RedisLedger
from batchflow.stores.redis.store import RedisStore

__all__ = ["RedisLedger", "RedisStore"]
