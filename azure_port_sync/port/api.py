"""The requests to Port's REST API that the sync makes, each with what it returns.

Port's API says what Port really holds; the webhook's 202 is no more than a receipt. Routes and limits are those of
Port's OpenAPI file (github.com/port-labs/port-docs, `static/apispec.yaml`).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar
from urllib.parse import quote

from azure_port_sync.core.errors import PortError
from azure_port_sync.port import Json
from azure_port_sync.port.client import ApiClient, ApiRequest, json_object, read
from azure_port_sync.port.failures import TransientError
from azure_port_sync.port.flow import Flow
from azure_port_sync.port.responses import (
    Blueprint,
    BulkUpsert,
    FoundEntity,
    SearchPage,
    ShapeError,
    StoredEntity,
    Webhook,
    deleted_identifiers,
    objects,
    one_object,
)

_T = TypeVar("_T")

#: The most entities in one request.
MAX_UPSERTED, MAX_DELETED = 20, 100

_PAGE_SIZE = 1000  # the most that Port gives
_ABSENT = frozenset({404})
_FORBIDDEN = frozenset({403})

# Entities are merged, as a webhook does, so that what a person added to one in Port stays. Missing targets of relations
# are not created: containers go first, and what Port made up itself nobody would ever remove.
_UPSERT = "upsert=true&merge=true&create_missing_related_entities=false&validation_only=false"
_DELETE = "delete_dependents=true"


class PortApi(ApiClient):
    """Port's REST API. Safe to share between threads.

    Every method raises PortError, in one sentence with the setting to look at, when Port refuses, stays unreachable
    for five minutes, or answers what its specification does not have. The three that write entities make a single
    attempt for the flow of a delivery, which has a patience of its own: they raise TransientError and RefusedError too.
    """

    # -- what Port holds ---------------------------------------------------------------------------------------------

    def entities(self, blueprint: str, *, with_type: bool = False) -> Iterator[list[FoundEntity]]:
        """All entities of a blueprint, in pages of at most 1000, which are read as they are asked for.

        `with_type` asks for the property `type`, which not every blueprint has: what Port says to one it does not know
        is not documented. An entity that is added or removed meanwhile may be there or not.
        """
        include = ["$identifier", "$title", *(["type"] if with_type else [])]
        search: Json = {"query": {"combinator": "and", "rules": []}, "include": include, "limit": _PAGE_SIZE}
        request = _about(blueprint, "POST", "entities/search", "read the entities of", body=search)
        cursors = set()
        while True:
            page = read(request, SearchPage.of, self.send_for_json(request))
            yield page.entities
            if page.next is None:
                return
            if page.next in cursors:
                raise PortError(
                    f"Port's API named the same next page of {blueprint} twice, so what Port holds is not known; the "
                    "next run tries again."
                )
            cursors.add(page.next)
            request = request._replace(body={**search, "from": page.next})

    def count(self, blueprint: str) -> int:
        """The number of entities of a blueprint."""
        request = _about(blueprint, "GET", "entities-count", "count the entities of")
        return read(request, _count, self.send_for_json(request))

    def entity(self, blueprint: str, identifier: str) -> StoredEntity | None:
        """One entity as Port shows it; None when there is none."""
        path = f"entities/{quote(identifier, safe='')}"
        return self._find(_about(blueprint, "GET", path, "read an entity of", expected=_ABSENT), StoredEntity.of)

    # -- writing entities --------------------------------------------------------------------------------------------

    def upsert_entities(self, blueprint: str, entities: Sequence[Json], flow: Flow) -> BulkUpsert:
        """Write at most 20 entities, in one attempt."""
        request = _about(blueprint, "POST", f"entities/bulk?{_UPSERT}", body={"entities": entities})
        body = json_object(self.attempt(request, flow))
        try:
            return BulkUpsert.of(body, sent=len(entities))
        except ShapeError:
            raise TransientError("it did not answer for each of the entities", alone=True) from None

    def delete_entities(self, blueprint: str, identifiers: Sequence[str], flow: Flow) -> set[str]:
        """Delete at most 100 entities, in one attempt; returns those that Port says were there."""
        request = _about(blueprint, "POST", f"bulk/entities/delete?{_DELETE}", body={"entities": identifiers})
        return read(request, deleted_identifiers, json_object(self.attempt(request, flow)))

    def delete_entity(self, blueprint: str, identifier: str, flow: Flow) -> None:
        """Delete an entity, or find it deleted, in one attempt."""
        path = f"entities/{quote(identifier, safe='')}?{_DELETE}"
        self.attempt(_about(blueprint, "DELETE", path, expected=_ABSENT), flow)

    # -- the data model ----------------------------------------------------------------------------------------------

    def blueprint(self, identifier: str) -> Blueprint | None:
        """One blueprint; None when there is none of that name."""
        return self._find(_about(identifier, "GET", "", "read the blueprint", expected=_ABSENT), Blueprint.of)

    def create_blueprint(self, blueprint: Json) -> None:
        """Create a blueprint, with a page of the catalog for it."""
        self.send_for_json(
            ApiRequest("POST", "blueprints?create_catalog_page=true", "change blueprints", body=blueprint)
        )

    def update_blueprint(self, identifier: str, changes: Json) -> None:
        """Change the named parts of a blueprint."""
        self.send_for_json(_about(identifier, "PATCH", "", "change the blueprint", body=changes))

    def webhooks(self) -> list[Webhook] | None:
        """All webhooks of the account; None when these credentials may not read them."""
        request = ApiRequest("GET", "webhooks", "read the webhooks", "webhooks", expected=_FORBIDDEN)
        response = self.send(request)
        if response.status in _FORBIDDEN:
            return None
        return read(request, lambda body: [Webhook.of(one) for one in objects(body)], json_object(response))

    def create_webhook(self, webhook: Json) -> Webhook:
        """Create a webhook; returns it as Port shows it then, with its URL."""
        request = ApiRequest("POST", "webhooks", "change webhooks", body=webhook)
        return read(request, lambda body: Webhook.of(one_object(body)), self.send_for_json(request))

    def update_webhook(self, identifier: str, changes: Json) -> None:
        """Change the named parts of a webhook."""
        path = f"webhooks/{quote(identifier, safe='')}"
        self.send_for_json(ApiRequest("PATCH", path, "change webhooks", f"webhook {identifier}", body=changes))

    def _find(self, request: ApiRequest, shape: Callable[[Json], _T]) -> _T | None:
        """The one object of a response; None when Port has none of that name."""
        response = self.send(request)
        if response.status in _ABSENT:
            return None
        return read(request, lambda body: shape(one_object(body)), json_object(response))


def _about(
    blueprint: str,
    method: str,
    path: str,
    verb: str = "write entities of",
    *,
    body: Json | None = None,
    expected: frozenset[int] = frozenset(),
) -> ApiRequest:
    """A request below a blueprint."""
    path = f"blueprints/{quote(blueprint, safe='')}/{path}".rstrip("/")
    return ApiRequest(method, path, f"{verb} {blueprint}", f"blueprint {blueprint}", body, expected)


def _count(body: Json) -> int:
    count = body.get("count")
    if not isinstance(count, int):
        raise ShapeError
    return count
