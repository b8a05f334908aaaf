"""Errors of training."""

from peftcore import PeftcoreError


class TrainingError(PeftcoreError):
    """Training cannot go on; the best adapter so far is kept."""


class Interrupted(PeftcoreError):
    """The user, or the system, asked the run to stop."""

    exit_code = 130
