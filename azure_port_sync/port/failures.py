"""Everything that can come in place of a success of Port, in one table for each edge: what it is, and what is done.

To learn what happens on a 407, read the table of the edge from its top: the first row that fits counts. A status says
little by itself, because proxies, firewalls and load balancers answer in Port's place, with every status there is. So a
row also names whose body the response has, and only what Port itself says of an entity (its own JSON) is taken to be
about that entity: it goes to quarantine. All else is tried again, or stops the run in a sentence with its remedy.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from azure_port_sync.core.errors import PortError, one_line
from azure_port_sync.port.transport import Broken, Response, asked_wait

_LONGEST_MESSAGE = 200


class Treatment(StrEnum):
    """The ways to treat a failure."""

    RETRY = "retry"  # until the deadline; it says nothing about what was sent
    RETRY_ALONE = "retry_alone"  # the same, but it may be about one event: many in a request are tried apart, and one
    # at which Port keeps failing while it takes others is given up in this run
    REFUSED_ENTITY = "refused_entity"  # Port refuses the entity for what it is
    MISSING_PARENT = "missing_parent"  # Port refuses it for lack of what it has a relation to
    CONFIGURATION = "configuration"  # the run stops: a person has to change something
    FATAL = "fatal"  # the run stops: nothing that a setting could change


class Body(StrEnum):
    """The author of a response, by the form of its body."""

    PORT = "Port's JSON"  # an object with `ok` or `message`: the specification has both in every error
    PAGE = "a web page"
    OTHER = "anything else"


class TransientError(Exception):
    """Port is not able to answer just now.

    `wait` is how many seconds it asks for, and `alone` whether the trouble may be that of this one request.
    """

    def __init__(self, reason: str, wait: float = 0.0, *, alone: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.alone = alone


class RefusedError(Exception):
    """Port refuses this for what it is."""


class MissingParentError(RefusedError):
    """Port refuses this because it has a relation to what Port does not hold."""


class Row(NamedTuple):
    """One row of a table: what came (a status of these, or no whole response), whose body it has, and what is done.

    `sentence` may name the {status}, Port's own {message}, the {setting} that holds the address, and, of Port's API,
    the {purpose} of the request and the {subject} that its path names.
    """

    came: Iterable[int] | Broken
    bodies: frozenset[Body]
    treatment: Treatment
    sentence: str


RETRY, RETRY_ALONE, REFUSED_ENTITY, MISSING_PARENT, CONFIGURATION, FATAL = Treatment

_ANY = frozenset(Body)
_PORT = frozenset({Body.PORT})
_PAGE = frozenset({Body.PAGE})
_OTHER = frozenset({Body.OTHER})
_NO_PAGE = _ANY - _PAGE

_ANSWERED = "it answered {status}"
_ANSWERED_FOR_ONE = "it answered {status} for this entity"
_CERTIFICATE = (
    "Port's certificate was not accepted. Behind a private certificate authority, name its file in REQUESTS_CA_BUNDLE."
)
_PROXY_FAILS = "the proxy on the way did not connect to it: check HTTPS_PROXY and NO_PROXY"
_PROXY_ASKS = "a proxy on the way asks for a user name and password (407): put them into HTTPS_PROXY"
_PROXY_ANSWERED = (
    "it answered {status} with a web page, which is not from Port: check {setting}, and that every proxy or firewall "
    "on the way lets requests through to it"
)
_NOT_PORT = (
    "it answered {status} with something that is not Port's JSON: check {setting}, and whether a proxy or firewall on "
    "the way answers in Port's place"
)
_NOT_TAKEN = "it answered {status}, and that it has not taken what was sent: {message}"
_REDIRECT = "{edge} answered {status}, a redirect: check the host in {setting}."
_NO_PLAN = "{edge} answered {status}: {message}. Port's plan for this account does not allow the request: ask Port."
_NO_METHOD = "{edge} answered {status}: {message}. It no longer takes this request: look for a newer azure_port_sync."
_REFUSED = "Port answered {status}: {message}"

#: Without a whole response, nobody knows whether the request was worked off; all that is sent may be sent twice.
_NO_RESPONSE = (
    Row(Broken.CERTIFICATE, _ANY, CONFIGURATION, _CERTIFICATE),
    Row(Broken.PROXY, _ANY, RETRY, _PROXY_FAILS),
    Row(Broken.SECURE_CONNECTION, _ANY, RETRY_ALONE, "no secure connection came about"),
    Row(Broken.CONNECTION, _ANY, RETRY_ALONE, "there is no connection to it, or it breaks before the answer"),
    Row(Broken.TIMEOUT, _ANY, RETRY_ALONE, "it did not answer in time"),
    Row(Broken.CUT_OFF, _ANY, RETRY_ALONE, "its answer breaks off"),
    Row(Broken.TOO_SLOW, _ANY, RETRY_ALONE, "its answer came too slowly"),
    Row(Broken.TOO_LARGE, _ANY, RETRY_ALONE, "its answer is larger than any of Port's"),
)

#: Time-outs, conflicts, locks, upgrades, headers, lawyers and clients that went away.
_NEVER_OF_THE_ENTITY = frozenset({408, 409, 421, 423, 425, 426, 431, 451, 499})

#: Never about the entity, whoever says it.
_OF_THE_MOMENT = (
    Row(range(300, 400), _ANY, CONFIGURATION, _REDIRECT),
    Row({407}, _ANY, RETRY, _PROXY_ASKS),
    Row({429}, _ANY, RETRY, _ANSWERED),
    Row(_NEVER_OF_THE_ENTITY, _ANY, RETRY_ALONE, _ANSWERED),
    Row(range(500, 1000), _ANY, RETRY_ALONE, _ANSWERED),
)

_REST = (
    Row(range(200, 300), _PORT, RETRY_ALONE, _NOT_TAKEN),
    Row({402}, _PORT, FATAL, _NO_PLAN),
    Row({405}, _PORT, FATAL, _NO_METHOD),
    Row(range(400, 500), _PORT, REFUSED_ENTITY, _REFUSED),  # 400, 413, 422 and their like
    Row(range(1000), _PAGE, RETRY_ALONE, _PROXY_ANSWERED),
    Row(range(1000), _ANY, RETRY_ALONE, _NOT_PORT),
)


class Edge(NamedTuple):
    """A door of Port: its name, the setting that holds its address, and the table of its failures."""

    name: str
    setting: str
    failures: tuple[Row, ...]


_SIGNATURE = "check PORT_WEBHOOK_SECRET against the webhook's security settings in Port"
_SIGNATURE_OR_PROXY = (
    "{edge} answered {status}, with something that is not Port's JSON: a proxy or firewall on the way refused the "
    f"request, or the webhook did: {_SIGNATURE}."
)

#: What Port's webhook answers to a wrong key or signature is not documented, so anything but a page is taken for that.
WEBHOOK = Edge(
    "Port's webhook",
    "PORT_WEBHOOK_INGEST_URL",
    (
        *_NO_RESPONSE,
        *_OF_THE_MOMENT,
        Row({401}, _PORT, CONFIGURATION, f"{{edge}} answered 401: it refused the signature: {_SIGNATURE}."),
        Row({403}, _PORT, CONFIGURATION, f"{{edge}} answered 403: it refused the request: {_SIGNATURE}."),
        Row({401, 403}, _OTHER, CONFIGURATION, _SIGNATURE_OR_PROXY),
        Row({404}, _NO_PAGE, CONFIGURATION, "{edge} answered 404: there is no such webhook: check {setting}."),
        Row({410}, _NO_PAGE, CONFIGURATION, "{edge} answered 410: the webhook is gone: check {setting}."),
        *_REST,
    ),
)

_CREDENTIALS = (
    "{edge} answered {status} to PORT_CLIENT_ID and PORT_CLIENT_SECRET: copy both again from the credentials that Port "
    "shows, and check that {setting} is the API of that account."
)
_NO_API = "There is no API of Port at {setting}: it answered 404 to the request for a token."

#: The request for an access token.
SIGN_IN = Edge(
    "Port's API",
    "PORT_BASE_URL",
    (
        *_NO_RESPONSE,
        *_OF_THE_MOMENT,
        Row({401, 403}, _PORT, CONFIGURATION, _CREDENTIALS),
        Row({404}, _ANY, CONFIGURATION, _NO_API),
        *_REST,
    ),
)

_SIGNED_OUT = (
    "{edge} answered 401 to an access token that it had just given out: check that {setting} is the API of the account "
    "that PORT_CLIENT_ID belongs to."
)
_MAY_NOT = (
    "{edge} answered 403: PORT_CLIENT_ID may not {purpose}. Use the credentials of a user who may, or of an admin."
)
_NOT_THERE = (
    "Port has no {subject}: launch the job port_setup, or check that PORT_CLIENT_ID belongs to the account that is "
    "meant."
)

#: All other requests to Port's API.
API = Edge(
    "Port's API",
    "PORT_BASE_URL",
    (
        *_NO_RESPONSE,
        *_OF_THE_MOMENT,
        Row({401}, _NO_PAGE, CONFIGURATION, _SIGNED_OUT),
        Row({403}, _PORT, CONFIGURATION, _MAY_NOT),
        Row({404}, _PORT, CONFIGURATION, _NOT_THERE),
        *_REST,
    ),
)

#: One entity in the response to a bulk upsert, which has a status of its own. There, 404 is a relation to nothing (so
#: reads Port's own client: github.com/port-labs/ocean, `port_ocean/clients/port/mixins/entities.py`).
BULK_ENTITY = Edge(
    "Port's API",
    "PORT_BASE_URL",
    (
        Row({429}, _ANY, RETRY, _ANSWERED_FOR_ONE),
        Row({401, 402, 403, 405, 407, *_NEVER_OF_THE_ENTITY}, _ANY, RETRY_ALONE, _ANSWERED_FOR_ONE),
        Row({404}, _ANY, MISSING_PARENT, _REFUSED),
        Row(range(400, 500), _ANY, REFUSED_ENTITY, _REFUSED),
        Row(range(1000), _ANY, RETRY_ALONE, _ANSWERED_FOR_ONE),
    ),
)


def raise_for_failure(
    edge: Edge,
    came: Response | Broken,
    now: datetime,
    *,
    secrets: Iterable[str] = (),
    words: Mapping[str, str] | None = None,
) -> Response:
    """Return what came if it is a success; otherwise raise what the edge's table says.

    That is TransientError, RefusedError, or PortError where the run has to stop. `words` are for the sentence.
    """
    if isinstance(came, Broken):
        raise failure(edge, came, Body.OTHER)
    body = body_of(came)
    if 200 <= came.status < 300 and _says_it_has_taken(came):
        return came
    known = {"message": error_message(came, secrets), **(words or {})}
    raise failure(edge, came.status, body, wait=asked_wait(came, now), words=known)


def _says_it_has_taken(response: Response) -> bool:
    """Return whether a success is Port's: a JSON object, or nothing. A bulk one may name entities with errors."""
    json = response.json
    if isinstance(json, dict):
        return json.get("ok") is not False or "errors" in json
    return not response.body.strip()


def failure(
    edge: Edge, came: int | Broken, body: Body, *, wait: float = 0.0, words: Mapping[str, str] | None = None
) -> TransientError | RefusedError | PortError:
    """Return the error that the edge's table has for what came."""
    row = next((row for row in edge.failures if _fits(row, came, body)), edge.failures[-1])
    sentence = row.sentence.format(**{"edge": edge.name, "setting": edge.setting, "status": came, **(words or {})})
    match row.treatment:
        case Treatment.RETRY | Treatment.RETRY_ALONE:
            return TransientError(sentence, wait, alone=row.treatment is Treatment.RETRY_ALONE)
        case Treatment.REFUSED_ENTITY:
            return RefusedError(sentence)
        case Treatment.MISSING_PARENT:
            return MissingParentError(sentence)
        case Treatment.CONFIGURATION | Treatment.FATAL:
            return PortError(sentence)


def _fits(row: Row, came: int | Broken, body: Body) -> bool:
    if isinstance(row.came, Broken) or isinstance(came, Broken):
        return row.came is came
    return came in row.came and body in row.bodies


def body_of(response: Response) -> Body:
    """Return whose words a response has."""
    json = response.json
    if isinstance(json, dict) and ("ok" in json or "message" in json):
        return Body.PORT
    return Body.PAGE if response.body.lstrip().startswith(b"<") else Body.OTHER


def error_message(response: Response, secrets: Iterable[str]) -> str:
    """Return Port's words about a refusal, safe to show."""
    json = response.json
    return shown(str(json["message"]) if isinstance(json, dict) and "message" in json else response.text, secrets)


def shown(text: str, secrets: Iterable[str]) -> str:
    """Return somebody else's words on one short line, without the secrets that they may repeat, and as mere text."""
    return one_line(text, _LONGEST_MESSAGE, secrets)
