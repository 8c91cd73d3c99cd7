"""What this package warns of, by category, so that each can be silenced.

warnings.simplefilter("ignore", kdr.DataWarning)
"""


class RetrievalWarning(UserWarning):
    """Any warning of this package but those of names that have changed."""


class DataWarning(RetrievalWarning):
    """Figures may not say what they seem to, by how the data are divided."""


class TrainingWarning(RetrievalWarning):
    """Training is slower than it could be, or does not learn as it should."""


class ResumeWarning(RetrievalWarning):
    """A run may not go on exactly as if it had never been stopped."""
