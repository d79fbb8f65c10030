"""Durations in words."""


def duration(seconds: float) -> str:
    """A duration for people, such as `45 s`, `12 min`, `3 h` or `5 d`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} d"
