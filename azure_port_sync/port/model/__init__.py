"""The data model of the catalog as Port takes it: the blueprints, and the webhook that fills them.

The two JSON files beside this one are what the job `port_setup` brings into Port. Who has no API credentials pastes
them there by hand (README, "Setting Port up"). The blueprints are those of Port's guide; the webhook's mapping takes
our events one by one and in batches alike.
"""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from azure_port_sync.port import Json


@cache
def _read(name: str) -> Any:
    return json.loads(files(__name__).joinpath(name).read_text(encoding="utf-8"))


def blueprints() -> list[Json]:
    """The blueprints, each after those that its relations point to."""
    return list(_read("blueprints.json"))


def webhook() -> Json:
    """The webhook; its security holds no secret."""
    webhook = dict(_read("webhook.json"))
    return webhook | {"security": {key: value for key, value in webhook["security"].items() if key != "secret"}}
