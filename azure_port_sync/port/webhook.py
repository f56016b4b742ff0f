"""The sink for a Port webhook: one POST an event, signed when there is a secret.

Port answers 202 and works the event off later (docs.port.io, "Custom webhooks"), so a success here means *accepted*.
The ingest URL holds the webhook's key and is a secret: no error of this module repeats it.
"""

import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from azure_port_sync.sync.clock import Clock
from azure_port_sync.sync.errors import PortError

logger = logging.getLogger(__name__)

#: The header that carries the signature, and its prefix: enter both in the webhook's security settings.
SIGNATURE_HEADER = "X-Port-Signature"
SIGNATURE_PREFIX = "sha256="

#: Port's limit for one webhook event (docs.port.io, "Custom webhooks").
MAX_EVENT_BYTES = 512 * 1024

_TIMEOUT = (10, 60)  # seconds to connect, seconds between two bytes
_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_SETTING_STATUS = {
    401: "it refused the signature: check PORT_WEBHOOK_SECRET against the webhook's security settings in Port",
    403: "it refused the request: check PORT_WEBHOOK_SECRET against the webhook's security settings in Port",
    404: "there is no such webhook: check PORT_WEBHOOK_INGEST_URL",
    410: "the webhook is gone: check PORT_WEBHOOK_INGEST_URL",
}
_QUIET = timedelta(seconds=10)
_BACKOFF = wait_random_exponential(multiplier=0.5, max=30)


class RefusedError(Exception):
    """Port refused this one event for what it is."""


class _TransientError(Exception):
    """Port is not able to take the event just now."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


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
        self._session = requests.Session()
        self._session.verify = verify
        self._session.headers.update({"Content-Type": "application/json", "User-Agent": "azure_port_sync"})
        self._session.auth = _no_netrc
        adapter = HTTPAdapter(pool_connections=1, pool_maxsize=concurrency)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
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
        retrying = Retrying(
            retry=retry_if_exception_type(_TransientError),
            wait=self._wait,
            stop=self._out_of_time,
            sleep=self._clock.sleep,
            before_sleep=self._before_retry,
            reraise=True,
        )
        try:
            retrying(self._post, body, before_request)
        except _TransientError as error:
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
        answer = self._answer_to(body, headers)
        if isinstance(answer, Exception):
            raise answer
        if 200 <= answer.status_code < 300:
            self._last_accepted = self._clock.now()
            return
        self._raise_for(answer)

    def _answer_to(self, body: bytes, headers: Mapping[str, str]) -> requests.Response | Exception:
        """Port's answer, or what to raise instead: not from here, because requests' errors name the URL."""
        try:
            return self._session.post(self._url, data=body, headers=headers, timeout=_TIMEOUT, allow_redirects=False)
        except requests.exceptions.SSLError:
            return PortError(
                "Port's certificate was not accepted. Behind a private certificate authority, name its file in "
                "REQUESTS_CA_BUNDLE."
            )
        except requests.RequestException as error:
            return _TransientError(f"no whole answer ({type(error).__name__})")

    def _raise_for(self, answer: requests.Response) -> None:
        status = answer.status_code
        if status in _TRANSIENT_STATUS:
            raise _TransientError(f"it answered {status}", _retry_after(answer, self._clock.now()))
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

    def _out_of_time(self, _state: RetryCallState) -> bool:
        return self._time_left() <= 0

    def _wait(self, state: RetryCallState) -> float:
        """Back off with jitter; not less than Port asks for, and not past the deadline."""
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait if isinstance(error, _TransientError) else 0.0
        return min(asked + float(_BACKOFF(state)), max(self._time_left(), 0.0))

    def _before_retry(self, state: RetryCallState) -> None:
        self.retries += 1
        now = self._clock.now()
        if state.outcome is not None and now >= self._quiet_until:  # all threads meet the same trouble
            self._quiet_until = now + _QUIET
            logger.warning("Port: %s; trying again", state.outcome.exception())


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """The URL holds the key; without this, requests looks for a .netrc on disk before every event."""
    return request


def _retry_after(answer: requests.Response, now: datetime) -> float:
    """Seconds that a Retry-After header asks for, as a number or as a date; 0 when it is missing or malformed."""
    text = answer.headers.get("Retry-After", "")
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    except (TypeError, ValueError):
        return 0.0
