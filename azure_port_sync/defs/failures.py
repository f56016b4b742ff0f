"""The failures of runs, as a person reads them: in one sentence, wherever they look.

Each step runs within `user_facing_errors`. An error that a person can do something about becomes a sentence without a
traceback; any other is a defect of ours, which says so and keeps its traceback.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import dagster as dg

from azure_port_sync.core.errors import SyncError
from azure_port_sync.defs.dagster_internals import UserFacingError


@contextmanager
def user_facing_errors() -> Iterator[None]:
    """Fail the step in one sentence, whatever goes wrong in it, and spend no retry on it."""
    try:
        yield
    except dg.Failure:
        raise
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        _mark_as_canceling(dg.OpExecutionContext.get())
        raise
    except SyncError as error:
        raise UserFacingError(str(error)) from None
    except Exception as error:
        raise UserFacingError(
            f"This is a defect of azure_port_sync ({type(error).__name__}), not of your settings: report it to the "
            "maintainers, with the traceback in the log of this run.",
            cause=error,
        ) from error


def _mark_as_canceling(context: dg.OpExecutionContext) -> None:
    """Have Dagster call the run cancelled: without this, it calls an interrupt that the UI has not asked for a failure.

    A terminal, systemd or Kubernetes has asked for it; the next tick delivers what is missing.
    """
    run = context.instance.get_run_by_id(context.run_id)
    if run is not None and run.status is dg.DagsterRunStatus.STARTED:
        context.instance.report_run_canceling(run, "The process of this run was asked to stop.")


def fail_if_blocked(results: Sequence[dg.AssetCheckResult]) -> None:
    """Fail the step with the sentences of the checks that stop the run; Dagster's own error has only their names."""
    blocked = [one for one in results if not one.passed and one.severity is dg.AssetCheckSeverity.ERROR]
    if blocked:
        raise UserFacingError(" ".join(f"{one.check_name}: {one.description}" for one in blocked))


class Problem(NamedTuple):
    """A step of a run that failed (`stops`), or a check of it that warns."""

    name: str
    sentence: str
    stops: bool


def problems(instance: dg.DagsterInstance, run_id: str) -> Iterator[Problem]:
    """Return what went wrong in a run, from the run's own events.

    A check that stopped the run is in the error of its step. Of an error that was not written for a person only the
    kind is given: its text may be long, and contain anything.
    """
    for entry in instance.all_logs(run_id):
        event = entry.dagster_event
        if event is None:
            continue
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            found = event.asset_check_evaluation_data
            if not found.passed and found.severity is dg.AssetCheckSeverity.WARN:
                yield Problem(found.check_name, found.description or "", stops=False)
        elif event.is_step_failure:
            data = event.step_failure_data
            description = data.user_failure_data.description if data.user_failure_data else None
            kind = data.error.cls_name if data.error else "an error"
            yield Problem(event.step_key or "", description or f"{kind}; the run's log has all of it.", stops=True)


def reason(instance: dg.DagsterInstance, run_id: str) -> str:
    """Return why a run failed: the errors of its steps."""
    stopped = [problem for problem in problems(instance, run_id) if problem.stops]
    return " ".join(f"{problem.name}: {problem.sentence}" for problem in stopped) or "Its process ended."
