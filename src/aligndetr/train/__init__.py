"""Training: the loop, what it optimises with, how long it lasts, and what it leaves behind."""
