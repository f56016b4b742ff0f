"""The sinks for a Port webhook: one POST an event, or one for many events, signed when there is a secret.

Port answers 202 and works the events off later (docs.port.io, "Custom webhooks"), so a success here means *accepted*.
The ingest URL holds the webhook's key and is a secret: no error of this module repeats it.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from datetime import timedelta
from urllib.parse import urlsplit

from azure_port_sync.core.clock import Clock, StoppableClock
from azure_port_sync.core.rows import Operation
from azure_port_sync.port.failures import WEBHOOK, raise_for_failure
from azure_port_sync.port.flow import Flow
from azure_port_sync.port.mapping import MAX_ITEMS
from azure_port_sync.port.sinks import Outcome, OutgoingEvent
from azure_port_sync.port.transport import TIMEOUTS, Response, Timeouts, new_session, send_request

#: The header that carries the signature, and its prefix: enter both in the webhook's security settings.
SIGNATURE_HEADER = "X-Port-Signature"
SIGNATURE_PREFIX = "sha256="

#: Port's limit for one request to a webhook (docs.port.io, "Custom webhooks").
MAX_BYTES = 512 * 1024


class WebhookSink:
    """Sends events to one webhook, each in a request of its own: any mapping takes them. Safe to share."""

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
        timeouts: Timeouts = TIMEOUTS,
    ) -> None:
        """`deadline` bounds the time in which Port accepts nothing at all, not the time of the whole delivery."""
        self._url = url
        self._secret = secret.encode() if secret else None
        self._clock = clock
        self._timeouts = timeouts
        self._session = new_session(url, connections=concurrency, verify=verify)
        self.concurrency = concurrency
        self.flow = Flow(StoppableClock(clock), deadline=deadline)

    def close(self) -> None:
        self._session.close()

    def is_answered(self) -> bool:
        """Return False: there is nothing else to ask a webhook for."""
        return False

    def max_batch_size(self, operation: Operation) -> int:  # noqa: ARG002
        """Events in one request."""
        return 1

    def send(self, events: Sequence[OutgoingEvent], heartbeat: Callable[[], None]) -> list[Outcome]:
        """Send all in one request. Raises RefusedError for what Port refuses, PortError when it refuses all."""
        body = self._body(events)
        self.flow.call(lambda: self._post(body), heartbeat, together=len(events) > 1)
        return [None] * len(events)

    def _body(self, events: Sequence[OutgoingEvent]) -> bytes:
        (event,) = events
        return event.body

    def _post(self, body: bytes) -> None:
        headers = {}
        if self._secret:
            digest = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
            headers[SIGNATURE_HEADER] = SIGNATURE_PREFIX + digest
        came = send_request(
            self._session, "POST", self._url, body=body, headers=headers, clock=self._clock, timeouts=self._timeouts
        )
        if isinstance(came, Response):
            self.flow.count_bytes(came.sent)
        secrets = (self._url, urlsplit(self._url).path.strip("/"), (self._secret or b"").decode())
        raise_for_failure(WEBHOOK, came, self._clock.now(), secrets=secrets)


class WebhookBatchSink(WebhookSink):
    """Sends events to one webhook, many in a request: ``{"items": [event, ...]}``.

    Only a mapping that has `itemsToParse` takes them; another one drops them silently.
    """

    max_bytes = MAX_BYTES - len(b'{"items":[]}')

    def max_batch_size(self, operation: Operation) -> int:  # noqa: ARG002
        """Events in one request: what lies beyond is dropped by Port silently."""
        return MAX_ITEMS

    def _body(self, events: Sequence[OutgoingEvent]) -> bytes:
        return b'{"items":[' + b",".join(event.body for event in events) + b"]}"
