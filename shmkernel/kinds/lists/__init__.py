"""The list kind: flat sequences, laid out as the standard library's ShareableList."""
