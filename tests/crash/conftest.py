from tests.crash.test_full import small  # noqa: F401  for the other modules too
