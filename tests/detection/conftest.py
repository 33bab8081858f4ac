from tests.recovery.conftest import few_examples, trained_run  # noqa: F401
