class PromptRecoveryError(Exception):
    """An error that the user can fix; its message is one line that says what to do.

    Entry points print it without a traceback and exit with status 1.
    """
