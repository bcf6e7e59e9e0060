"""The same job on Redis, and the least that Redis itself has to do for it: each on a server of its own."""

import contextlib
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, cast

import redis

from batchflow import Batchflow
from batchflow.stores.redis import RedisStore, keys, script
from benchmarks.app import quiet_logs
from benchmarks.job import Greet, GreetLarge

Figures = dict[str, float]

CLAIM = """
local found = redis.call('ZPOPMIN', KEYS[1], ARGV[1])
local ids = {}
for place = 1, #found, 2 do
  redis.call('HSET', KEYS[2] .. found[place], 'o', 'w', 'f', 1)
  ids[#ids + 1] = found[place]
end
return ids
"""
STEP = """
local stale = 0
for place = 2, #ARGV do
  local key = KEYS[1] .. ARGV[place]
  if redis.call('HGET', key, 'f') == '1' then
    redis.call('HSET', key, ARGV[1], '{"text":"Welcome back, User user-0000000, for the 3th time","length":53}')
  else
    stale = stale + 1
  end
end
return stale
"""
END = """
for place = 1, #ARGV do
  local key = KEYS[1] .. ARGV[place]
  if redis.call('HGET', key, 'f') == '1' then
    redis.call('DEL', key)
    redis.call('ZADD', KEYS[2], '+inf', ARGV[place])
  end
end
"""


@contextlib.contextmanager
def server(folder: Path) -> Generator[str]:
    """A Redis server without persistence; its URL."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("there is no redis-server on PATH")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [program, "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        url = f"redis://127.0.0.1:{port}"
        client = connect(url)
        while True:
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                break
            time.sleep(0.02)
        yield url
    finally:
        process.terminate()
        process.wait()


def connect(url: str) -> Any:
    """A client for asking the server how it is."""
    # Untyped in redis-py.
    return cast(Any, redis.Redis).from_url(url)


def _about(client: Any, section: str) -> dict[str, Any]:
    return client.info(section)


def _cpu(client: Any) -> float:
    about = _about(client, "cpu")
    return float(about["used_cpu_user"]) + float(about["used_cpu_sys"])


def least(url: str, items: int) -> Figures:
    """Enqueue, then claim, three fenced steps, end and mark, 100 items a call, from one client."""
    client = connect(url)
    claim, step, end = (client.register_script(text) for text in (CLAIM, STEP, END))
    for low in range(0, items, 1_000):
        client.zadd("queue", {f"user-{number:07d}": number for number in range(low, low + 1_000)})
    cpu, begun = _cpu(client), time.perf_counter()
    while ids := cast(list[Any], claim(keys=["queue", "m:"], args=[100])):
        for name in ("s1", "s2", "s3"):
            step(keys=["m:"], args=[name, *ids])
        end(keys=["m:", "ledger"], args=ids)
    taken, cpu = time.perf_counter() - begun, _cpu(client) - cpu
    client.flushall()
    return {"least_items_per_s": items / taken, "least_redis_cpu_us": cpu / items * 1e6}


async def batch(folder: Path, workflow: Greet, items: int) -> Figures:
    """A batch of so many items, from trigger to the end of its `on_complete`, by one worker in this process."""
    quiet_logs(folder)
    with server(folder) as url, connect(url) as client:
        figures = least(url, 20_000)
        flow = Batchflow(RedisStore(url))
        greet = flow.add(workflow)
        async with flow:
            server_cpu, cpu, begun = _cpu(client), time.process_time(), time.perf_counter()
            triggered = await greet.trigger()
            summary = await triggered.wait(check=True)
            taken = time.perf_counter() - begun
            cpu, server_cpu = time.process_time() - cpu, _cpu(client) - server_cpu
            assert summary.counts.succeeded == items
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures | {
        "items_per_s": items / taken,
        "cpu_us": cpu / items * 1e6,
        "redis_cpu_us": server_cpu / items * 1e6,
        "peak_mib": peak,
    }


async def queued(folder: Path, items: int) -> Figures:
    """Measure the memory of a queued item on Redis, by a batch whose items all wait behind a paused key."""
    quiet_logs(folder)
    with server(folder) as url, connect(url) as client:
        flow = Batchflow(RedisStore(url))
        greet = flow.add(GreetLarge(items))
        store = flow.engine.store
        async with flow:
            await store.pause("greet.execute")
            before, begun = _used(client), time.perf_counter()
            triggered = await greet.trigger()
            async for status in triggered.progress(0.01):
                if status.state == "sealed":
                    break
            taken = time.perf_counter() - begun
            return {"bytes_per_item": (_used(client) - before) / items, "started_per_s": items / taken}


async def calls(folder: Path, count: int) -> Figures:
    """Measure the cost of a call on the server by an empty group, as a function and as a script."""
    program = script.load_script()
    with server(folder) as url, connect(url) as client:
        key, request = f"{keys.prefix('calls')}meta", script.encode_request(None, 0, [])
        client.execute_command("FUNCTION LOAD", program.library)
        client.script_load(program.text)
        nothing = client.script_load("return 1")
        asked = {
            "function_us": lambda: client.fcall(program.function, 1, key, request),
            "script_us": lambda: client.evalsha(program.sha, 1, key, request),
            "nothing_us": lambda: client.evalsha(nothing, 0),
        }
        return {name: _per_call(client, call, count) for name, call in asked.items()}


def _per_call(client: Any, call: Callable[[], object], count: int) -> float:
    client.config_resetstat()
    for _ in range(count):
        call()
    counted = _about(client, "commandstats")
    return next(float(it["usec_per_call"]) for name in ("fcall", "evalsha") if (it := counted.get(f"cmdstat_{name}")))


def _used(client: Any) -> int:
    return int(_about(client, "memory")["used_memory"])
