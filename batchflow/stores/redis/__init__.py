"""The store on Redis, for many workers on many machines."""

from batchflow.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
