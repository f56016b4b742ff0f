"""Values between the assets of one run: Parquet files under the run's own id, and nobody else's.

Dagster's file IO managers keep one value per asset key, so a part of an old run that is started again would deliver
another run's payload. Here a value belongs to the run that made it; a step that is started alone finds none and says
which job to launch.
"""

import shutil
import time
from pathlib import Path

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import PrivateAttr, TypeAdapter

from azure_port_sync.core.guard import Guard
from azure_port_sync.core.plan import Plan
from azure_port_sync.core.rows import CHANGE_SET, OBSERVATION, to_frame, to_table
from azure_port_sync.defs.dagster_internals import UserFacingError
from azure_port_sync.defs.failures import user_facing_errors
from azure_port_sync.defs.resources import instance_folder, writing_to
from azure_port_sync.engine.decide import ChangeSet

#: No run lives longer than a day, and nothing else reads its values.
_KEPT_SECONDS = 24 * 60 * 60

#: The parts of a change set beside its frame.
_Label = tuple[Plan, Guard, int | None, tuple[dict[str, str], ...]]
_LABEL: TypeAdapter[_Label] = TypeAdapter(_Label)
_LABEL_KEY = b"azure_port_sync.change_set"


class RunValues(dg.ConfigurableIOManager):
    """Keeps DataFrames of observations, and change sets with their plan in the Parquet schema's metadata."""

    _folder: Path = PrivateAttr()

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        if context.instance is None or context.run_id is None:
            raise dg.DagsterInvariantViolationError("values between assets need a run")
        self._folder = instance_folder(context.instance) / "values" / context.run_id

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame | ChangeSet) -> None:
        if isinstance(obj, ChangeSet):
            label = _LABEL.dump_json((obj.plan, obj.guard, obj.kept, obj.sample))
            table = to_table(obj.frame, CHANGE_SET).replace_schema_metadata({_LABEL_KEY: label})
        else:
            table = to_table(obj, OBSERVATION)
        path, values = self._path(context.asset_key), self._folder.parent
        with user_facing_errors(), writing_to(values.parent, values, self._folder):
            for old in values.iterdir():
                if time.time() - old.stat().st_mtime > _KEPT_SECONDS:
                    shutil.rmtree(old, ignore_errors=True)
            path.touch(mode=0o600)
            pq.write_table(table, path)

    def load_input(self, context: dg.InputContext) -> pd.DataFrame | ChangeSet:
        path = self._path(context.asset_key)
        if not path.exists():
            raise UserFacingError(
                f"This run has made no {context.asset_key.to_user_string()}, and the one of another run may be out of "
                "date: launch the job incremental_sync (or full_sync) as a whole instead of a part of it."
            )
        table: pa.Table = pq.read_table(path)
        if context.dagster_type.typing_type is ChangeSet:
            return ChangeSet(to_frame(table), *_LABEL.validate_json(table.schema.metadata[_LABEL_KEY]))
        return to_frame(table)

    def _path(self, key: dg.AssetKey) -> Path:
        return self._folder / f"{key.path[-1]}.parquet"
