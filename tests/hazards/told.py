"""Errors and warnings of hazards: which code, about which place, in which words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from reparamkit.errors import CODES, ReparamError

CALL = ""  # the place of what is about an argument, or the model as a whole: there is none


@contextmanager
def raises(code: str, at: str, *words: str) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """The block raises an error with `code` that names the place `at` and says `words`.

    Args:
        code: of the error itself, not of one that it quotes.
        at: module path, node, class, key, file, or line and column; `CALL` where there is none.
        words: further text of the message.
    """
    # A forward that was written anew has no errors of this package: it raises a RuntimeError that begins alike.
    with pytest.raises((ReparamError, RuntimeError)) as caught:
        yield caught
    check(str(caught.value), code, at, *words)


@contextmanager
def warns(code: str, at: str, *words: str) -> Iterator[None]:
    """The block warns with `code` of a line in the file `at`, in these words."""
    with pytest.warns(UserWarning, match=code) as seen:
        yield
    (warned,) = (w for w in seen if code in str(w.message))
    check(str(warned.message), code, CALL, *words)
    assert warned.filename == at


def check(message: str, code: str, at: str, *words: str) -> None:
    """Asserts the code of a message, that it names this place, not only a longer one around it, and says `words`."""
    assert message.startswith(f"{code} {CODES[code]}"), message
    whole = rf"(?<![\w.]){re.escape(at)}(?!\w|\.\w)"
    said = message.removeprefix(code)
    assert not at or re.search(whole, said), f"{at!r} is not named: {message}"
    missing = [word for word in words if word not in said]
    assert not missing, f"{missing} is not said: {message}"
