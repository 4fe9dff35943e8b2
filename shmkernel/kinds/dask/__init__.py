"""What Dask's collections give: their workers compute the parts straight into a segment."""
