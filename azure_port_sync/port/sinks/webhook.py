"""The sinks for a Port webhook: one POST an event, or one for many events, signed when there is a secret.

Port answers 202 and works the events off later (docs.port.io, "Custom webhooks"), so a success here means *accepted*.
The ingest URL holds the webhook's key and is a secret: no error of this module repeats it.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from datetime import timedelta
from urllib.parse import urlsplit

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import PortError
from azure_port_sync.core.rows import Operation
from azure_port_sync.port.flow import Flow
from azure_port_sync.port.mapping import MAX_ITEMS
from azure_port_sync.port.sinks import Outcome, OutgoingEvent, RefusedError
from azure_port_sync.port.transport import Response, TransientError, new_session, send_request

#: The header that carries the signature, and its prefix: enter both in the webhook's security settings.
SIGNATURE_HEADER = "X-Port-Signature"
SIGNATURE_PREFIX = "sha256="

#: Port's limit for one request to a webhook (docs.port.io, "Custom webhooks").
MAX_BYTES = 512 * 1024

_OF_THE_SETTINGS = {
    401: "it refused the signature: check PORT_WEBHOOK_SECRET against the webhook's security settings in Port",
    403: "it refused the request: check PORT_WEBHOOK_SECRET against the webhook's security settings in Port",
    404: "there is no such webhook: check PORT_WEBHOOK_INGEST_URL",
    410: "the webhook is gone: check PORT_WEBHOOK_INGEST_URL",
}


class WebhookSink:
    """Sends events to one webhook, each in a request of its own: any mapping takes them. Safe to share."""

    name = "webhook"
    verifies = False
    max_bytes = MAX_BYTES

    def __init__(
        self,
        url: str,
        *,
        secret: str | None,
        concurrency: int,
        deadline: timedelta,
        clock: Clock,
        verify: str | bool = True,
    ) -> None:
        """`deadline` bounds the time in which Port accepts nothing at all, not the time of the whole delivery."""
        self._url = url
        self._secret = secret.encode() if secret else None
        self._clock = clock
        self._session = new_session(url, connections=concurrency, verify=verify)
        self.flow = Flow(clock, concurrency=concurrency, deadline=deadline)

    def close(self) -> None:
        self._session.close()

    def max_batch_size(self, operation: Operation) -> int:  # noqa: ARG002
        """Events in one request."""
        return 1

    def send(self, events: Sequence[OutgoingEvent], heartbeat: Callable[[], None]) -> list[Outcome]:
        """Send all in one request. Raises RefusedError for what Port refuses, PortError when it refuses all."""
        body = self._body(events)
        answer = self.flow.call(lambda: self._post(body), heartbeat, together=len(events) > 1)
        if not 200 <= answer.status < 300:
            raise RefusedError(f"Port answered {answer.status}: {self._without_key(answer.text)[:200]}")
        return [None] * len(events)

    def _body(self, events: Sequence[OutgoingEvent]) -> bytes:
        (event,) = events
        return event.body

    def _post(self, body: bytes) -> Response:
        headers = {}
        if self._secret:
            digest = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
            headers[SIGNATURE_HEADER] = SIGNATURE_PREFIX + digest
        answer = send_request(self._session, "POST", self._url, body=body, headers=headers, clock=self._clock)
        if isinstance(answer, TransientError | PortError):
            raise answer
        self.flow.count_bytes(answer.sent)
        if answer.status in _OF_THE_SETTINGS:
            raise PortError(f"Port's webhook answered {answer.status}: {_OF_THE_SETTINGS[answer.status]}.")
        if 300 <= answer.status < 400:
            raise PortError(
                f"Port's webhook answered {answer.status}, a redirect: check the host in PORT_WEBHOOK_INGEST_URL."
            )
        if 200 <= answer.status < 300 and answer.body.lstrip().startswith(b"<"):
            # What Port's 202 holds is not documented; but a page is from a proxy, or from another address than meant.
            raise TransientError(
                f"it answered {answer.status} with a web page, which is not from a webhook (PORT_WEBHOOK_INGEST_URL)"
            )
        return answer

    def _without_key(self, text: str) -> str:
        """What a server says, without the address that it may repeat."""
        key = urlsplit(self._url).path.strip("/")
        return text.replace(self._url, "(webhook)").replace(key, "(key)")


class WebhookBatchSink(WebhookSink):
    """Sends events to one webhook, many in a request: ``{"items": [event, ...]}``.

    Only a mapping that has `itemsToParse` takes them; another one drops them without a word.
    """

    name = "webhook_batch"
    max_bytes = MAX_BYTES - len(b'{"items":[]}')

    def max_batch_size(self, operation: Operation) -> int:  # noqa: ARG002
        """Events in one request: what lies beyond is dropped by Port without a word."""
        return MAX_ITEMS

    def _body(self, events: Sequence[OutgoingEvent]) -> bytes:
        return b'{"items":[' + b",".join(event.body for event in events) + b"]}"
