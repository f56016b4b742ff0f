"""What every way into Port shares: a session, an exchange whose errors show no secret, and how long to wait after one.

A server may ask for time by ``Retry-After`` (RFC 9110), and Port's API by ``x-ratelimit-reset`` (docs.port.io, "Rate
limits"). That is documented as epoch seconds, but Port's own Terraform provider reads it as seconds from now; like
Port's Ocean, what is above 10,000 counts as epoch here (github.com/port-labs/ocean, `port_ocean/helpers/retry.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, TimeoutError  # noqa: A004  (the built-in one does not come from there)

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import PortError

#: Answers after which the same request may succeed.
TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})

_TIMEOUT = (10, 60)  # seconds to connect, seconds between two bytes
_WHOLE_ANSWER = timedelta(minutes=2)
_CHUNK = 64 * 1024
_LARGEST_DURATION = 10_000


class TransientError(Exception):
    """Port is not able to answer just now; `wait` is how many seconds it asks for, `status` what it answered."""

    def __init__(self, reason: str, wait: float = 0.0, status: int | None = None) -> None:
        super().__init__(reason)
        self.wait = wait
        self.status = status


@dataclass(frozen=True)
class Response:
    """A whole answer, and the number of bytes in the body that it answers."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent: int = 0

    @property
    def text(self) -> str:
        """The body as text on one line."""
        return " ".join(self.body.decode(errors="replace").split())


def new_session(url: str, *, connections: int, verify: str | bool) -> requests.Session:
    """A session that keeps so many connections to the host of `url`; `verify` is what TLS is verified against.

    What the environment says of proxies is read here once. Left to requests, it would be read before every request,
    with a .netrc whose password goes before our token.
    """
    session = requests.Session()
    session.proxies = {**requests.utils.get_environ_proxies(url)}
    session.trust_env = False
    session.verify = verify
    session.headers.update({"Content-Type": "application/json", "User-Agent": "azure_port_sync"})
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=connections)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def send_request(
    session: requests.Session, method: str, url: str, *, body: bytes | None, headers: Mapping[str, str], clock: Clock
) -> Response | PortError | TransientError:
    """Port's answer, or what to raise instead: not from here, because requests' errors name the URL.

    An answer that may be another after a while is a TransientError already. Redirects are not followed: they would
    carry what is sent, or a token, to a host that nobody named.
    """
    ends = clock.now() + _WHOLE_ANSWER
    try:
        # Prepared here: a session that merges its settings into each request takes as long as the rest of it.
        request = requests.Request(method, url, data=body, headers={**session.headers, **headers}).prepare()
        with session.send(
            request,
            timeout=_TIMEOUT,
            allow_redirects=False,
            stream=True,
            verify=session.verify,
            proxies=session.proxies,
        ) as response:
            parts = []
            # The time-out of requests is for two bytes; an answer that drips could go on for ever.
            while part := response.raw.read1(_CHUNK, decode_content=True):
                parts.append(part)
                if clock.now() > ends:
                    return TransientError("its answer came too slowly")
            answer = Response(response.status_code, response.headers, b"".join(parts), len(body or b""))
    except requests.exceptions.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):
            return TransientError("no secure connection came about")
        return PortError(
            "Port's certificate was not accepted. Behind a private certificate authority, name its file in "
            "REQUESTS_CA_BUNDLE."
        )
    except (requests.RequestException, HTTPError) as error:
        return TransientError(_what_broke(error))
    if answer.status in TRANSIENT_STATUS:
        return TransientError(f"it answered {answer.status}", asked_wait(answer, clock.now()), answer.status)
    return answer


def _what_broke(error: Exception) -> str:
    """Why there is no whole answer; the error's own text would show the URL."""
    if isinstance(error, requests.Timeout | TimeoutError):
        return "it did not answer in time"
    if isinstance(error, requests.ConnectionError):
        return "there is no connection to it, or it breaks before the answer"
    return "its answer breaks off"


def asked_wait(answer: Response, now: datetime) -> float:
    """Seconds that an answer asks to wait; 0 where it does not ask, or not in a way that can be read.

    ``x-ratelimit-reset`` comes with every answer of Port's API, but only a 429 asks to wait for it.
    """
    text = answer.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    except (TypeError, ValueError):
        return until_reset(answer, now) if answer.status == 429 else 0.0


def until_reset(answer: Response, now: datetime) -> float:
    """Seconds until Port's API grants a new share of requests, by what an answer says; 0 where it does not say."""
    text = answer.headers.get("x-ratelimit-reset", "")
    value = float(text) if text.isdecimal() else 0.0
    return value if value <= _LARGEST_DURATION else max(0.0, value - now.timestamp())
