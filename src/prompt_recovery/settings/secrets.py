"""Secrets that settings may hold, which must not be written into a file.

A URL may hold a user, a password and a key in its query, and an environment variable anything. What
is written instead is the URL without them, and the name of the variable.
"""

import os
import re
from typing import Any

from omegaconf import OmegaConf
from omegaconf.resolvers import oc

_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/?#]*@", re.IGNORECASE)
_QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?#'\"]*\?)[^\s#'\"]+", re.IGNORECASE)
_LONG = 8  # characters of a value that is also replaced inside of other texts
_variables: dict[str, str] = {}  # value → the interpolation that it comes from


def redacted(text: str) -> str:
    """Returns a text in which URLs have no user, no password and no query."""
    return _QUERY.sub(r"\1…", _USER.sub(r"\1…@", text)) if "://" in text else text


def as_written(value: Any) -> Any:
    """Returns settings as they may be written into a file, whatever they were resolved to.

    Values of environment variables become the interpolation that they come from, such as
    `${oc.env:NAME}`, and URLs are redacted.
    """
    if isinstance(value, dict):
        return {key: as_written(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [as_written(inside) for inside in value]
    if not isinstance(value, str):
        return value
    if value in _variables:
        return _variables[value]
    for secret, written in _variables.items():
        if len(secret) >= _LONG:
            value = value.replace(secret, written)
    return redacted(value)


def _environment(key: str, *default: Any) -> Any:
    """Resolves `${oc.env:…}` as OmegaConf does, and remembers where the value comes from."""
    value = oc.env(key, *default)
    if isinstance(value, str) and value and key in os.environ:
        _variables[value] = f"${{oc.env:{key}}}"
    return value


OmegaConf.register_new_resolver("oc.env", _environment, replace=True)
