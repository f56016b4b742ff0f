"""The routes of Port's REST API for the data model: blueprints and webhooks."""

import secrets
from collections.abc import Callable

from azure_port_sync.sandbox.port.answers import Answer, fine, invalid, not_found, not_played, taken
from azure_port_sync.sandbox.port.entity import Json
from azure_port_sync.sandbox.port.webhooks import Port, Webhook
from azure_port_sync.sandbox.rest.call import Call, RestRoute, known_blueprint
from azure_port_sync.sandbox.shapes import check_blueprint, check_webhook, json_object

_WEBHOOK_ABOUT: tuple[str, ...] = ("title", "description", "icon", "integrationType")


class ModelRoutes:
    """Answers about blueprints and webhooks."""

    def __init__(self, port: Port, ingest_url: Callable[[str], str]) -> None:
        self._port = port
        self._catalog = port.catalog
        self._ingest_url = ingest_url

    def routes(self) -> tuple[RestRoute, ...]:
        """Return the routes for the data model."""
        return (
            RestRoute("create_blueprint", "POST", "blueprints", "blueprints", self._create_blueprint),
            RestRoute("blueprint", "GET", "blueprints/{blueprint}", "blueprints", self._blueprint),
            RestRoute("patch_blueprint", "PATCH", "blueprints/{blueprint}", "blueprints", self._patch_blueprint),
            RestRoute("webhooks", "GET", "webhooks", "other", self._webhooks),
            RestRoute("create_webhook", "POST", "webhooks", "other", self._create_webhook),
            RestRoute("patch_webhook", "PATCH", "webhooks/{webhook}", "other", self._patch_webhook),
        )

    # -- blueprints

    def _blueprint(self, call: Call) -> Answer:
        return fine(blueprint=self._catalog.blueprints[known_blueprint(self._catalog.blueprints, call)])

    def _create_blueprint(self, call: Call) -> Answer:
        call.flag("create_catalog_page")
        body = json_object(call.body)
        check_blueprint(body)
        if body["identifier"] in self._catalog.blueprints:
            raise taken(f"There is a blueprint {body['identifier']!r} already")
        return self._take_blueprint(body, 201)

    def _patch_blueprint(self, call: Call) -> Answer:
        """Each part that the body has takes the place of the blueprint's, whole: a `schema` loses what is not named.

        How deep Port merges is not documented; a client that always sends whole parts is right either way.
        """
        identifier = known_blueprint(self._catalog.blueprints, call)
        body = self._catalog.blueprints[identifier] | json_object(call.body)
        return self._take_blueprint(_renamed_never(body, identifier))

    def _take_blueprint(self, body: Json, status: int = 200) -> Answer:
        check_blueprint(body)
        for name, relation in body.get("relations", {}).items():
            if relation["target"] not in {body["identifier"], *self._catalog.blueprints}:
                raise invalid(f"the relation {name!r} leads to {relation['target']!r}, which is no blueprint")
        self._catalog.add_blueprint(body)
        return fine(status, blueprint=self._catalog.blueprints[body["identifier"]])

    # -- webhooks

    def _show_webhook(self, webhook: Webhook) -> Json:
        """A webhook with all that was sent of it, its secret too: that Port hides the secret is not documented."""
        return {**_sent(webhook), "webhookKey": webhook.key, "url": self._ingest_url(webhook.key)}

    def _webhooks(self, _: Call) -> Answer:
        # These names of Port's answers are not in its specification: the first is in its Terraform provider, the
        # second is made after the first.
        return fine(integrations=[self._show_webhook(webhook) for webhook in self._port.webhooks.values()])

    def _create_webhook(self, call: Call) -> Answer:
        body = {"identifier": secrets.token_urlsafe(12), **json_object(call.body)}
        check_webhook(body)
        if self._port.webhook(body["identifier"]) is not None:
            raise taken(f"There is a webhook {body['identifier']!r} already")
        return self._take_webhook(secrets.token_urlsafe(16), body, 201)

    def _patch_webhook(self, call: Call) -> Answer:
        """Each part that the body has takes the place of the webhook's, whole: so `mappings`, so `security`.

        How deep Port merges is not documented; a client that always sends whole parts is right either way.
        """
        old = self._port.webhook(call.path["webhook"])
        if old is None:
            raise not_found(f"There is no webhook {call.path['webhook']!r}")
        return self._take_webhook(old.key, _renamed_never(_sent(old) | json_object(call.body), old.identifier))

    def _take_webhook(self, key: str, body: Json, status: int = 200) -> Answer:
        """The status of a webhook that was created is not in the specification; 201 is that of all its neighbours."""
        check_webhook(body)
        about = {name: body[name] for name in _WEBHOOK_ABOUT if name in body}
        mappings, security = body.get("mappings", []), body.get("security", {})
        webhook = Webhook(key, mappings, security, body["identifier"], body["enabled"], about)
        self._port.add_webhook(webhook)
        return fine(status, integration=self._show_webhook(webhook))


def _renamed_never(body: Json, identifier: str) -> Json:
    if body["identifier"] != identifier:
        raise not_played("a new identifier for what there is")
    return body


def _sent(webhook: Webhook) -> Json:
    """A webhook as it was sent."""
    return {
        "identifier": webhook.identifier,
        "title": webhook.identifier,
        **webhook.about,
        "enabled": webhook.enabled,
        "mappings": webhook.mappings,
        "security": dict(webhook.security),
    }
