"""One pass over the data: parts are worked on by threads or dask, their sums merged by one fixed tree."""
