"""The paper's tables and figures as data, and two ways to run them: in full, and on a laptop."""
