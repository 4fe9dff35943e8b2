"""The table kind: an Arrow IPC file, of DataFrames and whatever else gives its columns by Arrow's interface."""
