"""Every error a user can meet: one sentence with the cause and the cure, and the exit code of the command."""


class CnnError(Exception):
    """A failure the user can act on. The command prints it without a traceback and exits with `exit_code`."""

    exit_code = 1
    everywhere = False
    """Whether every process of a distributed run raises it, so that one can speak for all."""


class UsageError(CnnError, ValueError):
    """The caller asked for something that does not exist or cannot be: an unknown name, a bad value."""

    exit_code = 2


class ShapeError(UsageError):
    """Shapes, strides or types of arrays that do not fit together; the message says the numbers."""


class BackendUnavailable(CnnError):
    """A backend that was named but cannot run here. It is never replaced by another one in silence."""


class DataError(CnnError):
    """A data set or image that is missing, truncated, corrupt, or not what its name says."""


class FileFormatError(CnnError):
    """A model, checkpoint or configuration file that cannot be read as one."""


class NonFiniteError(CnnError):
    """Training produced NaN or infinity; the message names the layer where it appeared first."""

    everywhere = True


class Interrupted(CnnError):
    """Training was stopped by Ctrl-C or SIGTERM after its checkpoint was written."""

    exit_code = 130
    everywhere = True
