"""Files of earlier schemas, with what was in them."""

from pathlib import Path

from batchflow.stores.sqlite import SqliteStore, connection
from batchflow.testing import ManualClock
from tests.conformance.scene import LEASE_MS, Scene
from tests.stores.test_sqlite import raw


async def test_a_file_of_schema_11_knows_what_waits_after_a_failure(tmp_path: Path) -> None:
    """The item is counted as retrying until it is claimed."""
    path = str(tmp_path / "a.db")
    texts = connection.migration_texts()
    with raw(path) as direct:
        for number in (10, 11):
            direct.executescript(texts[number])
        direct.executescript(
            """
            INSERT INTO flow (key) VALUES ('free');
            INSERT INTO workflow (key, name) VALUES (1, 'welcome');
            INSERT INTO ledger (key, name) VALUES (1, 'welcome');
            INSERT INTO batch (key, id, workflow, ledger, state, params, complete_flow, keep_results, force, named,
                open, created_at) VALUES (1, 'bat_a', 1, 1, 'sealed', 'null', '["",null,null,1000,1]', 1, 0, 0, 2, 1);
            INSERT INTO lane (key, destination, flow, batch) VALUES (1, 'execute', 'free', 1);
            UPDATE lane SET ready_at = 0;
            INSERT INTO item (batch, number, id, state) VALUES (1, 0, 'u1', 'open'), (1, 1, 'u2', 'open');
            INSERT INTO message (id, lane, stage, due, fence, failures, batch, number, created_at, error)
            VALUES ('bat_a.r000000000', 1, 1, 0, 1, 1, 1, 0, 1, 'Boom: no'),
                ('bat_a.r000000001', 1, 0, 0, 0, 0, 1, 1, 1, NULL);
            """
        )
        direct.execute(f"PRAGMA application_id = {connection.APPLICATION_ID}")
        direct.execute("PRAGMA user_version = 11")
    scene = Scene(SqliteStore(path, clock=(clock := ManualClock())), clock)
    await scene.store.open()
    await scene.store.register("w1", LEASE_MS)
    counts = await scene.counts()
    assert (counts.open, counts.retrying, counts.parked) == (2, 1, 0)
    claims = await scene.items()
    assert (len(claims), (await scene.counts()).retrying) == (2, 0)
    await scene.dead(claims[0])
    assert [letter.attempts for letter in await scene.store.dead_letters()] == [2]
    await scene.store.close()
