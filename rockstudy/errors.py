"""The one error that a user can cause."""


class StudyError(ValueError):
    """An error that a user can cause: one line with the field, what is legal and what was given."""
