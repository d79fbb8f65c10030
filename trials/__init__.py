"""Training, adaptation and scoring of trials, one or many side by side."""
