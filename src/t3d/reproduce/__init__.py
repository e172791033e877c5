"""The paper's tables, each by one command: its file, the plan, the runs, the result."""
