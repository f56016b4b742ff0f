"""The transport below the Azure SDK, for queries and for signing in: each answer comes whole and soon, or not at all.

The SDK's own has a time-out between two bytes, so that an answer that drips could go on for ever, and takes a body of
any size. It also waits for as long as an answer asks it to, silently.
"""

import io
import logging
from datetime import timedelta
from typing import Any

import requests
from azure.core import exceptions
from azure.core.pipeline.transport import RequestsTransport
from urllib3.exceptions import HTTPError

from azure_port_sync.core.clock import NOTABLE_SECONDS, Clock, wait_in_words

logger = logging.getLogger(__name__)

#: The longest time that a whole answer may take.
WHOLE_ANSWER = timedelta(minutes=2)

#: The most bytes of a body, unpacked; Resource Graph sends 16 MiB at most (`ResponsePayloadTooLarge`).
MAX_BODY = 64 * 1024 * 1024

#: The longest wait of the SDK's own while it signs in; what asks for more is left to whoever wanted the token.
_LONGEST_SIGN_IN_WAIT = timedelta(minutes=1)

_CHUNK = 64 * 1024


class BoundedTransport(RequestsTransport):  # type: ignore[misc]
    """Sends requests as the SDK does; raises ServiceResponseError for an answer that takes too long, or too much room.

    Safe to share between threads, and between the credential and the client.
    """

    def __init__(self, clock: Clock, *, connection_verify: bool | str = True) -> None:
        super().__init__(connection_verify=connection_verify, connection_timeout=10, read_timeout=120)
        self._clock = clock

    def send(self, request: Any, **options: Any) -> Any:
        """Return the response to a request, with its body."""
        ends = self._clock.elapsed() + WHOLE_ANSWER
        response = super().send(request, **{**options, "stream": True})
        inner: requests.Response = response.internal_response
        body = io.BytesIO()
        try:
            while part := inner.raw.read1(_CHUNK, decode_content=True):
                body.write(part)
                if body.tell() > MAX_BODY:
                    raise exceptions.ServiceResponseError(f"the answer was larger than {MAX_BODY >> 20} MiB")
                if self._clock.elapsed() > ends:
                    minutes = WHOLE_ANSWER // timedelta(minutes=1)
                    raise exceptions.ServiceResponseError(f"the answer was not whole after {minutes} minutes")
        except HTTPError as error:
            raise exceptions.ServiceResponseError(error, error=error) from error
        finally:
            inner.raw.close()  # at its end, the connection has gone back already
        body.seek(0)
        inner.raw = body
        if hasattr(
            response, "read"
        ):  # one of `azure.core.rest`, which tells whether it was read; signing in has others
            response.read()
        return response

    def sleep(self, duration: float) -> None:
        """Wait before the SDK signs in once more, as it does for some credentials."""
        if duration > _LONGEST_SIGN_IN_WAIT.total_seconds():
            raise exceptions.ServiceResponseError(f"the answer asked for a wait of {duration:.0f} s")
        if duration > NOTABLE_SECONDS:
            logger.warning("Azure: signing in failed; waiting %s", wait_in_words(self._clock, duration))
        self._clock.sleep(duration)
