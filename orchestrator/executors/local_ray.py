"""What a Ray that is started on this machine for one search opens: 127.0.0.1, with a token."""

import logging
import os
import secrets
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)


def keep_to_this_machine() -> None:
    """Set what Ray reads from the environment when it is imported, so call it before that.

    Variables that the user has set stay as they are. Where Ray is imported already nothing changes.
    """
    if "ray" in sys.modules:
        return
    # Whether other machines can reach a node. It is off by default on macOS and on Windows, and all
    # of Ray listens on 127.0.0.1 there. `ray.init` and `ray start` can't be told an address of the
    # loopback interface: they replace it by the machine's own.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
        _provide_token()


def _provide_token() -> None:
    """A token that only this user can read, where Ray would find none or one that all can read."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    token = secrets.token_hex(32)
    try:
        path = Path.home() / ".ray" / "auth_token"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_new(path, token)
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            log.warning("others could read the token, now only you can path=%s", path)
            with suppress(OSError):  # another user's file
                path.chmod(0o600)
    except (OSError, RuntimeError):  # no home, or none that can be written to
        os.environ["RAY_AUTH_TOKEN"] = token


def _write_new(path: Path, text: str) -> None:
    """Write a private file whole or not at all; raises FileExistsError if it is there."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)  # its mode is 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        os.link(name, path)
    finally:
        os.unlink(name)
