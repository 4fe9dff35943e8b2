"""The notebooks are collected where they lie: ``tutorials`` is a link for Sphinx."""

collect_ignore = ["tutorials", "conf.py", "_ext"]
