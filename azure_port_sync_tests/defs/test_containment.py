"""Everything at once that may go wrong for a part: each anomaly stops itself, is shown, and all else goes on."""

import pytest

from azure_port_sync.sandbox.faults import Fault
from azure_port_sync_tests.support.operator import (
    NOT_RETIRED,
    RETIRED,
    Operator,
    failed_checks,
    failure,
    recorded,
)

SITES = "microsoft.web/sites"


def test_each_anomaly_stops_itself_is_shown_and_all_else_goes_on(
    operator: Operator, estate: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox, tenant = operator.sandbox, operator.sandbox.tenant
    monkeypatch.setenv("RESOURCE_GROUP_TAG_FILTERS", NOT_RETIRED)
    many = tenant.add_group(estate["prod"], "many", "westeurope")
    tenant.create_resources([{"group_id": many, "type": SITES, "name": f"s{n}"} for n in range(130)])
    operator.sync()

    tenant.add_twin(estate["site"], {"id": estate["site"].upper()})  # a duplicate row
    tenant.tag_resource(estate["sql"], "no object")  # an odd row
    tenant.lose_subscription(estate["dev"])
    tenant.retag_group(many, RETIRED)  # 131 deletes of which Azure has no record
    tenant.delete_resource(estate["Failure Anomalies - site"])  # and one of which it has
    for name in ("fresh", "refused", "failing"):
        tenant.create_resource(estate["web"], SITES, name)
    refusal = {"ok": False, "error": "validation", "message": "no such property"}
    sandbox.faults.add(Fault("port", status=422, body=refusal, in_body='"name":"refused"', times=None))
    sandbox.faults.add(Fault("port", status=500, in_body='"name":"failing"', times=None))

    failed = operator.run()

    assert not failed.success
    checks, figures = failed_checks(failed), recorded(failed)
    assert set(checks) == {
        "subscriptions_present",
        "rows_readable",
        "deletes_within_guard",
        "quarantine_empty",
        "deliveries_complete",
    }
    assert failure(failed).strip().splitlines() == [f"deliveries_complete: {checks['deliveries_complete']}"]
    assert (figures["held_deletes"], figures["accepted"]) == (131, 3)
    found = sandbox.compare(exclude=RETIRED)
    assert {name: len(extra) for name, extra in found.extra.items()} == {
        "azureSubscription": 1,  # in its grace period, with what is in it
        "azureResourceGroup": 2,
        "azureCloudResources": 131,
    }
    missing = [one.rpartition("/")[2] for one in found.missing["azureCloudResources"]]
    assert sorted(missing) == ["failing", "refused"]

    sandbox.faults.clear()
    tenant.regain_subscription(estate["dev"])
    operator.sync(mode="incremental", allow_mass_delete=True, retry_quarantined=True)
    assert sandbox.compare(exclude=RETIRED).sentences() == []
    assert operator.sync()["accepted"] == 0
