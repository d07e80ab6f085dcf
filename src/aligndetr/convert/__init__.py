"""Published checkpoints become ours: read, recognised, renamed, and checked tensor by tensor."""
