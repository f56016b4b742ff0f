"""The sink for a Port webhook: one POST an event, signed when there is a secret.

Port answers 202 and works the event off later (docs.port.io, "Custom webhooks"), so a success here means *accepted*.
The ingest URL holds the webhook's key and is a secret: no error of this module repeats it.
"""

import hashlib
import hmac
import logging
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import urlsplit

import requests
from tenacity import RetryCallState

from azure_port_sync.port.transport import (
    TRANSIENT_STATUS,
    TransientError,
    asked_wait,
    exchange,
    new_session,
    patient,
)
from azure_port_sync.sync.clock import Clock
from azure_port_sync.sync.errors import PortError

logger = logging.getLogger(__name__)

#: The header that carries the signature, and its prefix: enter both in the webhook's security settings.
SIGNATURE_HEADER = "X-Port-Signature"
SIGNATURE_PREFIX = "sha256="

#: Port's limit for one webhook event (docs.port.io, "Custom webhooks").
MAX_EVENT_BYTES = 512 * 1024

_SETTING_STATUS = {
    401: "it refused the signature: check PORT_WEBHOOK_SECRET against the webhook's security settings in Port",
    403: "it refused the request: check PORT_WEBHOOK_SECRET against the webhook's security settings in Port",
    404: "there is no such webhook: check PORT_WEBHOOK_INGEST_URL",
    410: "the webhook is gone: check PORT_WEBHOOK_INGEST_URL",
}
_QUIET = timedelta(seconds=10)


class RefusedError(Exception):
    """Port refused this one event for what it is."""


class WebhookSink:
    """Sends events to one webhook. Safe to share between threads."""

    verifies = False

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
        self._deadline = deadline
        self._clock = clock
        self._last_accepted = clock.now()
        self._session = new_session(connections=concurrency, verify=verify)
        self.concurrency = concurrency
        self.retries = 0
        self._quiet_until = clock.now()

    def close(self) -> None:
        self._session.close()

    def start(self) -> None:
        """Begin to measure the time in which Port accepts nothing."""
        self._last_accepted = self._clock.now()

    def send(self, body: bytes, before_request: Callable[[], None]) -> None:
        """Return when Port has accepted the event. `before_request` comes before each attempt.

        Raises RefusedError when Port refuses this event, PortError when it refuses all of them or stays
        unreachable past the deadline.
        """
        if len(body) > MAX_EVENT_BYTES:
            raise RefusedError(f"the event has {len(body):,} bytes; Port takes {MAX_EVENT_BYTES:,}")
        retrying = patient(self._clock, self._time_left, before_sleep=self._before_retry)
        try:
            retrying(self._post, body, before_request)
        except TransientError as error:
            minutes = int(self._deadline.total_seconds() // 60)
            raise PortError(
                f"Port accepted nothing for {minutes} minutes (PORT_DELIVERY_DEADLINE_MINUTES): {error}. "
                "The watermark stays where it is, and the next run delivers what is missing."
            ) from None

    def _post(self, body: bytes, before_request: Callable[[], None]) -> None:
        before_request()
        headers = {}
        if self._secret:
            digest = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
            headers[SIGNATURE_HEADER] = SIGNATURE_PREFIX + digest
        answer = exchange(self._session, "POST", self._url, body=body, headers=headers)
        if isinstance(answer, Exception):
            raise answer
        if 200 <= answer.status_code < 300:
            self._last_accepted = self._clock.now()
            return
        self._raise_for(answer)

    def _raise_for(self, answer: requests.Response) -> None:
        status = answer.status_code
        if status in TRANSIENT_STATUS:
            raise TransientError(f"it answered {status}", asked_wait(answer, self._clock.now()))
        if status in _SETTING_STATUS:
            raise PortError(f"Port's webhook answered {status}: {_SETTING_STATUS[status]}.")
        if 300 <= status < 400:
            raise PortError(f"Port's webhook answered {status}, a redirect: check the host in PORT_WEBHOOK_INGEST_URL.")
        raise RefusedError(f"Port answered {status}: {self._without_key(answer.text)[:200]}")

    def _without_key(self, text: str) -> str:
        """What a server says, without the address that it may repeat."""
        key = urlsplit(self._url).path.strip("/")
        return text.replace(self._url, "(webhook)").replace(key, "(key)")

    def _time_left(self) -> float:
        return (self._last_accepted + self._deadline - self._clock.now()).total_seconds()

    def _before_retry(self, state: RetryCallState) -> None:
        self.retries += 1
        now = self._clock.now()
        if state.outcome is not None and now >= self._quiet_until:  # all threads meet the same trouble
            self._quiet_until = now + _QUIET
            logger.warning("Port: %s; trying again", state.outcome.exception())
