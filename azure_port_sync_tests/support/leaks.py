"""An assertion about secrets."""

import traceback
from collections.abc import Iterator


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and everything that it was raised from or while handling, suppressed or not."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def shows_none_of(error: BaseException, *secrets: str) -> None:
    """Assert that neither a printed traceback nor a tool that walks the chain would find a secret."""
    printed = "".join(traceback.format_exception(error))
    walked = " ".join(f"{one!r} {one}" for one in _chain(error))
    for secret in secrets:
        assert secret not in printed
        assert secret not in walked
