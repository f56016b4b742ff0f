"""The blueprints and the webhook of Port's guide, as somebody has set them up who followed it."""

import json
import secrets
from pathlib import Path

from azure_port_sync.sandbox.port.webhooks import Port, Webhook

SIGNATURE_HEADER = "x-port-signature"
WEBHOOK_IDENTIFIER = "azureIncremental"
_FOLDER = Path(__file__).parent.parent / "guide"


class Guide:
    """The set-up of an account by the guide, with a key and a secret of its own."""

    def __init__(self) -> None:
        self.key = secrets.token_urlsafe(16)
        self.secret = secrets.token_urlsafe(24)

    def follow(self, port: Port) -> None:
        """Add the blueprints and the webhook to an account."""
        for blueprint in json.loads((_FOLDER / "blueprints.json").read_text(encoding="utf-8")):
            port.catalog.add_blueprint(blueprint)
        security = {
            "secret": self.secret,
            "signatureHeaderName": SIGNATURE_HEADER,
            "signatureAlgorithm": "sha256",
            "signaturePrefix": "sha256=",
        }
        about = {"title": "Azure incremental", "icon": "Azure", "integrationType": "custom"}
        mappings = json.loads((_FOLDER / "webhook_mapping.json").read_text(encoding="utf-8"))
        port.add_webhook(Webhook(self.key, mappings, security, WEBHOOK_IDENTIFIER, about=about))
