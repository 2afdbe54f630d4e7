"""Posts: files, data sets, batches, data modules."""
