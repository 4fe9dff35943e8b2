"""The notebooks are collected where they lie: ``tutorials`` has copies for Sphinx."""

collect_ignore = ["tutorials", "conf.py", "_ext"]
