"""The errors that a user can fix; the command line prints them as one line and exits with 2.

Every message says where, what was expected, what was found, and what to do.
"""


class UserError(Exception):
    """A mistake that the reader of the message can mend alone."""

    def __str__(self) -> str:
        text = super().__str__()
        if not text.startswith("Caught "):
            return text
        # torch's loaders re-raise a worker's error with its traceback as text before the message.
        last = text.rstrip().rpartition("\n")[2]
        return last.removeprefix(f"{type(self).__module__}.{type(self).__name__}: ")


class ConfigError(UserError):
    """A configuration, preset name or command-line value that cannot be used."""


class DatasetError(UserError):
    """A data folder, annotation file or image that cannot be used."""


class CheckpointError(UserError):
    """A run folder or weights file that cannot be used, or weights that cannot be had."""


class ExportError(UserError):
    """A model that cannot be exported as asked."""
