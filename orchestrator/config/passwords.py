"""Removal of passwords from URLs that are shown or stored."""

import re

# Parameters of signed URLs, like `sig` and `X-Amz-Signature`, are as good as passwords.
_PARAMETER = (
    r"(?:sig|auth|key|[\w.-]*"
    r"(?:password|passwd|pwd|token|secret|signature|credential|api[-_]?key|access[-_]?key)[\w.-]*)"
)
_PASSWORD = re.compile(
    rf"(?P<before>://[^/@\s]*:)[^/@\s]+(?=@)|(?P<key>[?&;]{_PARAMETER}=)[^&;\s]+",
    re.IGNORECASE,
)


def has_password(text: str) -> bool:
    """Whether `redacted` would change the text."""
    return redacted(text) != text


def redacted(text: str) -> str:
    """The text with each password of a URL replaced by three stars."""
    return _PASSWORD.sub(lambda match: (match["before"] or match["key"]) + "***", text)


def without_parameters(url: str) -> str:
    """The URL with three stars in place of its password, its parameters and its fragment.

    A path is returned as it is.
    """
    shown = redacted(url)
    return re.sub(r"([?#]).+", r"\1***", shown, flags=re.DOTALL) if "://" in url else shown
