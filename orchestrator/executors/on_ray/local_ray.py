"""Access control of a local Ray for one search: address 127.0.0.1, with a token."""

import logging
import os
import secrets
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)


def restrict_ray_to_localhost() -> None:
    """Set environment variables that Ray reads at import; call this before Ray is imported.

    Variables that the user has set are kept. Does nothing if Ray is already imported.
    """
    if "ray" in sys.modules:
        return
    # Controls whether other machines can reach a node. It is off by default on macOS and Windows;
    # then all of Ray listens on 127.0.0.1. `ray.init` and `ray start` do not accept a loopback
    # address: they replace it by the machine's address.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
        _provide_token()


def _provide_token() -> None:
    """Ensure that Ray finds a token, and that only this user can read it."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    token = secrets.token_hex(32)
    try:
        path = Path.home() / ".ray" / "auth_token"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_new(path, token)
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            log.warning("token was readable by others; now only you can read it path=%s", path)
            with suppress(OSError):  # another user's file
                path.chmod(0o600)
    except (OSError, RuntimeError):  # no home directory, or no write permission
        os.environ["RAY_AUTH_TOKEN"] = token


def _write_new(path: Path, text: str) -> None:
    """Write a private file atomically; raises FileExistsError if the file exists."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)  # with mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        os.link(name, path)
    finally:
        os.unlink(name)
