"""The last error of a failed run: one sentence of ours, and a traceback only where the defect is ours."""

import re
import stat
from pathlib import Path

import dagster as dg
import pytest

from azure_port_sync.defs import assets, resources
from azure_port_sync.defs.failures import problems, reason
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync_tests.support.operator import Operator, begin_mass_deletion


def _errors(operator: Operator, result: dg.ExecuteInProcessResult) -> list[str]:
    """All that the run's page shows of errors: those of its steps, then its own."""
    assert not result.success
    texts = []
    for entry in operator.instance.all_logs(result.run_id):
        event = entry.dagster_event
        if event and event.is_step_failure:
            texts.append(event.step_failure_data.error_display_string)
        elif event and event.is_failure:
            assert event.job_failure_data.error
            texts.append(event.job_failure_data.error.to_string())
    return texts


def _azure_refuses(operator: Operator, estate: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    operator.sandbox.faults.add(Fault("azure", status=403, path="ResourceGraph", times=None))


def _port_refuses(operator: Operator, estate: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    operator.sandbox.faults.add(Fault("port", status=401, times=None))


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        (_azure_refuses, "Azure could not be asked: the answer was 403 with an empty body"),
        (begin_mass_deletion, "deliveries_complete: There was nothing to deliver. 3 of the 9 entities"),
        (_port_refuses, "deliveries_complete: 9 of 9 deliveries were not made."),
    ],
)
def test_what_a_person_can_fix_is_our_sentence_and_nothing_else(
    operator: Operator, estate: dict[str, str], monkeypatch: pytest.MonkeyPatch, trouble: object, sentence: str
) -> None:
    assert callable(trouble)
    trouble(operator, estate, monkeypatch)

    failed = operator.run()

    of_step, of_run = _errors(operator, failed)
    assert of_step == of_run
    assert of_run.startswith(sentence)
    assert len(of_run.strip().splitlines()) == 1
    assert reason(operator.instance, failed.run_id).endswith(of_run.strip())


@pytest.mark.parametrize("where", [(assets, "read_snapshot"), (resources, "sign_in"), (assets, "change_set_metadata")])
def test_a_defect_says_that_it_is_ours_and_keeps_its_traceback(
    operator: Operator, estate: dict[str, str], monkeypatch: pytest.MonkeyPatch, where: tuple[object, str]
) -> None:
    """Its own text is in the log alone, because it may be long, and contain anything."""

    def defect(*_: object) -> None:
        raise KeyError("text of the defect")

    monkeypatch.setattr(*where, defect)

    failed = operator.run()

    of_step, of_run = _errors(operator, failed)
    assert of_step == of_run
    first, *rest = of_run.splitlines()
    assert first.startswith("This is a defect of azure_port_sync (KeyError), not of your settings: report it to")
    assert "text of the defect" not in first
    assert 'raise KeyError("text of the defect")' in "\n".join(rest)
    assert "site-packages" not in of_run.split("Stack Trace:")[0]
    (problem,) = [problem for problem in problems(operator.instance, failed.run_id) if problem.stops]
    assert problem.sentence == first


def test_warnings_are_no_reason(operator: Operator, estate: dict[str, str]) -> None:
    operator.sync()
    operator.sandbox.tenant.lose_subscription(subscription_id=estate["dev"])
    warned = operator.run()

    (problem,) = problems(operator.instance, warned.run_id)

    assert (problem.name, problem.stops) == ("subscriptions_present", False)


def test_a_folder_that_cannot_be_written_is_a_sentence(operator: Operator, estate: dict[str, str]) -> None:
    """Whatever is wrong with it: a disk that is full, rights that are missing, or a file in its place."""
    root = Path(operator.instance.root_directory)
    (root / "azure_port_sync").write_text("in the way")

    failed = operator.run()

    _, of_run = _errors(operator, failed)
    assert re.match(rf"{root}/azure_port_sync/values/\S+ cannot be written to: File exists. Free space there", of_run)
    assert len(of_run.strip().splitlines()) == 1


def test_what_a_run_keeps_is_for_its_owner_alone(operator: Operator, estate: dict[str, str]) -> None:
    operator.sync()

    folder = Path(operator.instance.root_directory) / "azure_port_sync"
    modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}

    assert modes == {True: 0o700, False: 0o600}


def test_a_temporary_instance_says_what_to_set(
    operator: Operator, estate: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without DAGSTER_HOME every run would be a full one."""
    monkeypatch.delenv("AZURE_PORT_SYNC_STATE_URL")

    result = operator.run()

    assert result.success
    warnings = [entry.user_message for entry in operator.instance.all_logs(result.run_id) if entry.level == 30]
    assert [text for text in warnings if "Set DAGSTER_HOME, or AZURE_PORT_SYNC_STATE_URL." in text] != []
