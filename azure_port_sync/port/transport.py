"""One HTTP request to Port: a session, a whole response or the reason why there is none, and how long to wait after it.

What a response means is not decided here, but in the tables of `failures`. A server may ask for time by
``Retry-After`` (RFC 9110), and Port's API by ``x-ratelimit-reset`` (docs.port.io, "Rate limits"). That is documented as
epoch seconds, but Port's own Terraform provider reads it as seconds from now; like Port's Ocean, what is above 10,000
counts as epoch here (github.com/port-labs/ocean, `port_ocean/helpers/retry.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, TimeoutError  # noqa: A004  (the built-in one does not come from there)

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.foreign_json import read_json

_CHUNK = 64 * 1024

#: The most bytes of a response that are kept, unpacked: far more than Port's largest, a page of 1000 entities, and far
#: less than what a response of 2 MB can unpack to.
MAX_RESPONSE_BYTES = 64 * 1024 * 1024

_LARGEST_DURATION = 10_000


class Timeouts(NamedTuple):
    """The longest waits for a connection, for the next byte, and for the whole response."""

    connect_seconds: float = 10
    read_seconds: float = 60
    whole: timedelta = timedelta(minutes=2)


TIMEOUTS = Timeouts()


class Broken(StrEnum):
    """The reasons why there is no whole response. The text of the exception is not kept: it would show the URL."""

    CERTIFICATE = "certificate"
    SECURE_CONNECTION = "secure connection"
    PROXY = "proxy"
    CONNECTION = "connection"
    TIMEOUT = "time-out"
    CUT_OFF = "cut off"
    TOO_SLOW = "too slow"
    TOO_LARGE = "too large"


@dataclass(frozen=True)
class Response:
    """A whole response, and the number of bytes in the body of its request."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent: int = 0

    @property
    def text(self) -> str:
        """The body as text on one line."""
        return " ".join(self.body.decode(errors="replace").split())

    @cached_property
    def json(self) -> object:
        """The JSON of the body, or None. The parser's own error would carry the body, token and all."""
        try:
            return read_json(self.body)
        except ValueError:
            return None


def new_session(url: str, *, connections: int, verify: str | bool) -> requests.Session:
    """Return a session that keeps so many connections to the host of `url`; TLS is verified against `verify`.

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
    session: requests.Session,
    method: str,
    url: str,
    *,
    body: bytes | None,
    headers: Mapping[str, str],
    clock: Clock,
    timeouts: Timeouts,
) -> Response | Broken:
    """Send one request. Redirects are not followed: they would carry a token, or what is sent, to an unnamed host."""
    ends = clock.elapsed() + timeouts.whole
    try:
        # Prepared here: a session that merges its settings into each request takes as long as the rest of it.
        request = requests.Request(method, url, data=body, headers={**session.headers, **headers}).prepare()
        with session.send(
            request,
            timeout=(timeouts.connect_seconds, timeouts.read_seconds),
            allow_redirects=False,
            stream=True,
            verify=session.verify,
            proxies=session.proxies,
        ) as response:
            parts, size = [], 0
            # The time-out of requests is for two bytes; a response that drips could go on for ever.
            while part := response.raw.read1(_CHUNK, decode_content=True):
                parts.append(part)
                size += len(part)
                if size > MAX_RESPONSE_BYTES:
                    return Broken.TOO_LARGE
                if clock.elapsed() > ends:
                    return Broken.TOO_SLOW
            return Response(response.status_code, response.headers, b"".join(parts), len(body or b""))
    except (requests.RequestException, HTTPError) as error:
        return _what_broke(error)


def _what_broke(error: Exception) -> Broken:
    match error:
        case requests.exceptions.SSLError() if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return Broken.CERTIFICATE
        case requests.exceptions.SSLError():
            return Broken.SECURE_CONNECTION
        case requests.exceptions.ProxyError():
            return Broken.PROXY
        case requests.Timeout() | TimeoutError():
            return Broken.TIMEOUT
        case requests.ConnectionError():
            return Broken.CONNECTION
        case _:
            return Broken.CUT_OFF


def asked_wait(response: Response, now: datetime) -> float:
    """Return the seconds that a response asks to wait; 0 where it does not ask, or not in a way that can be read.

    ``x-ratelimit-reset`` comes with every response of Port's API, but only a 429 asks to wait for it.
    """
    text = response.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    except (TypeError, ValueError):
        return until_reset(response, now) if response.status == 429 else 0.0


def until_reset(response: Response, now: datetime) -> float:
    """Return the seconds until Port's API grants a new share of requests; 0 where the response does not say."""
    text = response.headers.get("x-ratelimit-reset", "")
    value = float(text) if text.isdecimal() else 0.0
    return value if value <= _LARGEST_DURATION else max(0.0, value - now.timestamp())
