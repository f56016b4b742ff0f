"""What every way into Port shares: a session, an exchange whose errors show no secret, and how long to wait after one.

A server may ask for time by ``Retry-After`` (RFC 9110), and Port's API by ``x-ratelimit-reset`` (docs.port.io, "Rate
limits"). That is documented as epoch seconds, but Port's own Terraform provider reads it as seconds from now; like
Port's Ocean, what is above 10,000 counts as epoch here (github.com/port-labs/ocean, `port_ocean/helpers/retry.py`).
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

import requests
from requests.adapters import HTTPAdapter
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from azure_port_sync.sync.clock import Clock
from azure_port_sync.sync.errors import PortError

#: Answers after which the same request may succeed.
TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})

_TIMEOUT = (10, 60)  # seconds to connect, seconds between two bytes
_BACKOFF = wait_random_exponential(multiplier=0.5, max=30)
_LARGEST_DURATION = 10_000


class TransientError(Exception):
    """Port is not able to answer just now; `wait` is how many seconds it asks for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def new_session(*, connections: int, verify: str | bool) -> requests.Session:
    """A session that keeps so many connections to one host; `verify` is what TLS is verified against."""
    session = requests.Session()
    session.verify = verify
    session.headers.update({"Content-Type": "application/json", "User-Agent": "azure_port_sync"})
    session.auth = _no_netrc
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=connections)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def exchange(
    session: requests.Session, method: str, url: str, *, body: bytes, headers: Mapping[str, str]
) -> requests.Response | PortError | TransientError:
    """Port's answer, or what to raise instead: not from here, because requests' errors name the URL.

    Redirects are not followed: they would carry what is sent, or a token, to a host that nobody named.
    """
    try:
        return session.request(
            method,
            url,
            data=body,
            headers=headers,
            timeout=_TIMEOUT,
            allow_redirects=False,
            verify=session.verify,  # left to the session, a variable of the environment would go before it
        )
    except requests.exceptions.SSLError:
        return PortError(
            "Port's certificate was not accepted. Behind a private certificate authority, name its file in "
            "REQUESTS_CA_BUNDLE."
        )
    except requests.RequestException as error:
        return TransientError(f"no whole answer ({type(error).__name__})")


def asked_wait(answer: requests.Response, now: datetime) -> float:
    """Seconds that an answer asks to wait; 0 where it does not ask, or not in a way that can be read.

    ``x-ratelimit-reset`` comes with every answer of Port's API, but only a 429 asks to wait for it.
    """
    text = answer.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    except (TypeError, ValueError):
        return _until_reset(answer, now) if answer.status_code == 429 else 0.0


def patient(
    clock: Clock, time_left: Callable[[], float], *, before_sleep: Callable[[RetryCallState], None]
) -> Retrying:
    """Calls again after a TransientError, until no time is left; then the last one is raised.

    It waits with jitter, not less than Port asks for, and not past the deadline.
    """

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait if isinstance(error, TransientError) else 0.0
        return min(asked + float(_BACKOFF(state)), max(time_left(), 0.0))

    return Retrying(
        retry=retry_if_exception_type(TransientError),
        wait=wait,
        stop=lambda _: time_left() <= 0,
        sleep=clock.sleep,
        before_sleep=before_sleep,
        reraise=True,
    )


def _until_reset(answer: requests.Response, now: datetime) -> float:
    text = answer.headers.get("x-ratelimit-reset", "")
    value = float(text) if text.isdecimal() else 0.0
    return value if value <= _LARGEST_DURATION else max(0.0, value - now.timestamp())


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Without this, requests looks for a .netrc on disk before every request, and prefers what it says to our token."""
    return request
