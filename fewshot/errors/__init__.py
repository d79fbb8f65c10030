"""Exceptions for problems that a user can fix."""
