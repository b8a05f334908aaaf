"""What data holds, and all that is wrong with it at once. Imports no torch."""

from peftcore_train.profile.findings import KINDS, Finding
from peftcore_train.profile.profile import Profile

__all__ = ["KINDS", "Finding", "Profile"]
