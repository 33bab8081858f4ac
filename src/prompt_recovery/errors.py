class PromptRecoveryError(Exception):
    """Something the user can mend; the message is one line that says what and how.

    Entry points print it without a traceback and exit with status 1.
    """
