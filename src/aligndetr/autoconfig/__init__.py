"""Settings that the data and the time decide on, before a training begins."""
