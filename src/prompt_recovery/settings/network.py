"""The environment variables that HTTP clients read."""

import os
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from prompt_recovery.errors import PromptRecoveryError, first_line
from prompt_recovery.settings.secrets import redacted

PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


def refused_by_environment(what: str, error: Exception) -> PromptRecoveryError:
    """Returns the error for an HTTP client that cannot be made, which names the variable.

    Args:
        what: What cannot be made.
        error: What was raised.
    """
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        value = os.environ.get(name)
        if value and not (Path(value).is_file() if name.endswith("FILE") else Path(value).is_dir()):
            return _refusal(what, name, "there is no such file or folder")
    for name in PROXIES:
        value = os.environ.get(name)
        if value and not _is_proxy(value):
            reason = "it is no URL of a proxy that works here; SOCKS needs: pip install socksio"
            return _refusal(what, name, reason)
    given = [n for n in ("SSL_CERT_FILE", "SSL_CERT_DIR", "NO_PROXY", "no_proxy", *PROXIES)
             if os.environ.get(n)]  # fmt: skip
    if given:
        return _refusal(what, given[0], first_line(error))
    return PromptRecoveryError(f"{what} cannot be made: {first_line(error)}")


def _is_proxy(value: str) -> bool:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        known = parts.scheme in ("http", "https", "socks5", "socks5h") and parts.port != 0
    except ValueError:
        return False
    if parts.scheme.startswith("socks") and find_spec("socksio") is None:
        return False
    return bool(known and parts.hostname)


def _refusal(what: str, name: str, reason: str) -> PromptRecoveryError:
    value = redacted(os.environ[name])
    or_exempt = ", or name the hosts that need no proxy in NO_PROXY" if name in PROXIES else ""
    return PromptRecoveryError(
        f"{what} cannot be made with {name}={value}: {reason}; correct the variable or unset it"
        f"{or_exempt}"
    )


def exempt_from_proxies(*hosts: str) -> None:
    """Adds hosts to `NO_PROXY`, so that this process reaches them, such as itself, directly."""
    given = next((os.environ[n] for n in ("no_proxy", "NO_PROXY") if os.environ.get(n)), "")
    names = dict.fromkeys([*filter(None, given.split(",")), *hosts])
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(names)
