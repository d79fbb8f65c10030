"""Removal of passwords from URLs that are shown or stored."""

import re

_PASSWORD = re.compile(
    r"(?P<before>://[^/@\s]*:)[^/@\s]+(?=@)"
    r"|(?P<key>[?&;](?:password|passwd|pwd|token|secret)=)[^&;\s]+",
    re.IGNORECASE,
)


def has_password(text: str) -> bool:
    """Whether `redacted` would change the text."""
    return bool(_PASSWORD.search(text))


def redacted(text: str) -> str:
    """The text with each password of a URL replaced by three stars."""
    return _PASSWORD.sub(lambda match: (match["before"] or match["key"]) + "***", text)
