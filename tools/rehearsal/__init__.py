"""A run at real size before the real files are there: random weights, drawn films, and gauges of time and memory."""
