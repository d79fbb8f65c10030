"""What is taken for a password in a URL."""

import pytest

from orchestrator.config.passwords import has_password, redacted, without_parameters


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:pw@host/db", "postgresql://me:***@host/db"),
        (
            "postgresql://host/db?password=pw&sslmode=require",
            "postgresql://host/db?password=***&sslmode=require",
        ),
        ("https://h/d?sv=1&sig=a%2Fb%3D", "https://h/d?sv=1&sig=***"),
        (
            "https://h/d?X-Amz-Credential=a/b&X-Amz-Signature=c",
            "https://h/d?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        ("https://h/d?X-Goog-Signature=c", "https://h/d?X-Goog-Signature=***"),
        ("https://h/d?api_key=c&AWSAccessKeyId=d", "https://h/d?api_key=***&AWSAccessKeyId=***"),
        ("can't connect to http://me:pw@h: refused", "can't connect to http://me:***@h: refused"),
    ],
)
def test_a_password_is_not_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert has_password(text)
    assert not has_password(without_parameters(text))


@pytest.mark.parametrize(
    "text",
    ["", "/data", "s3://bucket/d", "http://me@h:5000/a:b?x=1", "https://h/?monkey=1&design=2"],
)
def test_what_has_none_is_shown_as_it_is(text: str) -> None:
    assert redacted(text) == text
    assert not has_password(text)


def test_all_parameters_can_be_hidden() -> None:
    assert without_parameters("https://me:pw@h/d?x=1&y=2#z") == "https://me:***@h/d?***"
    assert without_parameters("https://h/d#z") == "https://h/d#***"
    assert without_parameters("/data/set#1") == "/data/set#1"
