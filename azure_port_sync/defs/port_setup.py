"""The assets of the job `port_setup`: the data model that the sync needs in Port.

They run when somebody launches the job, never on a schedule; launching it twice changes nothing the second time.
"""

from pathlib import Path

import dagster as dg
from dotenv import set_key
from pydantic import Field

from azure_port_sync import __version__
from azure_port_sync.core.errors import SettingsError
from azure_port_sync.defs.failures import user_facing_errors
from azure_port_sync.defs.jobs import OWNERS
from azure_port_sync.defs.resources import PortResource
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.setup import Change, set_up_blueprints, set_up_webhook


class SetupConfig(dg.Config):
    """Run config of `port_webhook`: where the webhook's URL goes, which is a secret and appears nowhere."""

    write_env: bool = Field(
        default=False,
        description="Write PORT_WEBHOOK_INGEST_URL into the file `.env` of the folder that Dagster runs in.",
    )


@dg.asset(
    group_name="port_setup",
    kinds={"port"},
    owners=OWNERS,
    code_version=__version__,
    description="The three blueprints in Port: subscription, resource group and resource. Missing ones are created and "
    "incomplete ones completed; what a person added stays.",
)
def port_blueprints(port: PortResource) -> dg.MaterializeResult:
    with user_facing_errors():
        changes = set_up_blueprints(_api(port))
        return dg.MaterializeResult(
            metadata={"diff": _diff(changes), **{change.identifier: change.action for change in changes}}
        )


@dg.asset(
    group_name="port_setup",
    kinds={"port"},
    owners=OWNERS,
    code_version=__version__,
    deps=[port_blueprints],
    description="The webhook in Port whose mapping turns our events, single or in batches, into entities. The one "
    "behind PORT_WEBHOOK_INGEST_URL is updated, or one is created; PORT_WEBHOOK_SECRET signs its events.",
)
def port_webhook(context: dg.AssetExecutionContext, config: SetupConfig, port: PortResource) -> dg.MaterializeResult:
    with user_facing_errors():
        change, url = set_up_webhook(_api(port), port.webhook_url, port.webhook_secret)
        next_step = _next_step(port, change, url, write_env=config.write_env)
        context.log.info(next_step)
        return dg.MaterializeResult(
            metadata={
                "diff": _diff([change]),
                "webhook": change.identifier,
                "action": change.action,
                "signed": port.webhook_secret is not None,
                "next_step": next_step,
            }
        )


def _api(port: PortResource) -> PortApi:
    if port.api is None:
        raise SettingsError(
            "port_setup needs PORT_CLIENT_ID and PORT_CLIENT_SECRET: set both from the credentials that Port shows, or "
            "paste the files of azure_port_sync/port/model into Port by hand (README, Setting Port up)."
        )
    return port.api


def _next_step(port: PortResource, change: Change, url: str, *, write_env: bool) -> str:
    if port.webhook_url == url:
        return "PORT_WEBHOOK_INGEST_URL is the URL of this webhook already: launch incremental_sync."
    if write_env:
        file = Path.cwd() / ".env"
        file.touch(mode=0o600)
        set_key(file, "PORT_WEBHOOK_INGEST_URL", url)
        file.chmod(0o600)
        return f"PORT_WEBHOOK_INGEST_URL is in {file} now: restart Dagster, then launch incremental_sync."
    return (
        f"Set PORT_WEBHOOK_INGEST_URL to the URL of the webhook {change.identifier}, which Port shows under Data "
        "sources, or launch port_setup again with `write_env: true`. Without it, the sync delivers by Port's REST API."
    )


def _diff(changes: list[Change]) -> dg.MarkdownMetadataValue:
    lines = [line for change in changes for line in (f"  {change.identifier}: {change.action}", *change.diff)]
    return dg.MarkdownMetadataValue("```diff\n" + "\n".join(lines) + "\n```")
