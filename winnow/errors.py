"""The two ways a run can end early, told apart so that the command line can speak plainly."""


class WinnowError(Exception):
    """Something Winnow noticed and can name. Its message is one line, for a person."""

    exit_code = 1


class UserError(WinnowError):
    """The user can mend this: a wrong key, a missing file, a broken verifier. Exit code 2."""

    exit_code = 2


class Stopped(WinnowError):
    """The user stopped it (Ctrl-C). Exit code 130, as shells have it."""

    exit_code = 130
