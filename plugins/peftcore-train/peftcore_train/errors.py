"""Errors of training."""

from peftcore import PeftcoreError


class TrainingError(PeftcoreError):
    """Training cannot go on; the best adapter so far is kept."""


class HubError(PeftcoreError):
    """The Hugging Face hub refuses, or cannot be reached."""


class Interrupted(PeftcoreError):
    """The user, or the system, asked the run to stop."""

    exit_code = 130
