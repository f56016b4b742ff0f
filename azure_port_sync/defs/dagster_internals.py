"""The private parts of Dagster that we depend on, all of them, with the reason for each.

A failed run has to end with a sentence and not with Dagster's own traceback, a run has to warn of a state that is lost
with it, and `retention` has to delete what Dagster itself leaves behind; the public interface can do none of it. A test
of this module fails when a new version of Dagster moves these parts, or makes them unnecessary.
"""

from pathlib import Path
from traceback import TracebackException

import dagster as dg
import sqlalchemy as sa
from dagster._cli.utils import TMP_DAGSTER_HOME_PREFIX
from dagster._core.errors import DagsterUserCodeProcessError
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster_shared.error import SerializableErrorInfo


class UserFacingError(DagsterUserCodeProcessError, dg.Failure):
    """A failure of a step that is recorded as its sentence alone; with the traceback of its cause, where it has one.

    Dagster records the traceback of every error, through a dozen of its own modules, except of one that says that it
    comes from another process: of that it takes the record that it brings along.
    """

    def __init__(self, sentence: str, cause: Exception | None = None) -> None:
        traceback = None if cause is None else TracebackException.from_exception(cause)
        caused_by = None if traceback is None else SerializableErrorInfo.from_traceback(traceback)
        info = SerializableErrorInfo(f"{sentence}\n", [], type(self).__name__, cause=caused_by)
        super().__init__(sentence, allow_retries=False, user_code_process_error_infos=[info])  # type: ignore[no-untyped-call]


def is_temporary(instance: dg.DagsterInstance) -> bool:
    """Return whether an instance is gone with its process: that of a test, or of a command without DAGSTER_HOME.

    Dagster makes the latter in a folder that it deletes, and calls it as permanent as any other.
    """
    return instance.is_ephemeral or Path(instance.root_directory).name.startswith(TMP_DAGSTER_HOME_PREFIX)


def delete_event_database(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete the SQLite file with the events of a run that was deleted.

    On SQLite each run has one, which `DagsterInstance.delete_run` empties and leaves (35,000 files a year). Elsewhere
    there is no such file.
    """
    for file in (Path(instance.root_directory) / "history" / "runs").glob(f"{run_id}.db*"):
        file.unlink(missing_ok=True)


def delete_evaluations_of_deleted_runs(instance: dg.DagsterInstance) -> None:
    """Delete the check evaluations of runs that are gone, except the newest one of each check, which the UI shows.

    `DagsterInstance.delete_run` leaves these rows (half a million a year), and no public method deletes them.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return
    rows = AssetCheckExecutionsTable.c
    with storage.index_connection() as connection:
        runs = connection.scalars(sa.select(rows.run_id).distinct()).all()
        newest = sa.select(sa.func.max(rows.id)).group_by(rows.asset_key, rows.check_name)
        for run_id in runs:
            if instance.get_run_by_id(run_id) is None:
                old = sa.delete(AssetCheckExecutionsTable).where(rows.run_id == run_id, rows.id.not_in(newest))
                connection.execute(old)
