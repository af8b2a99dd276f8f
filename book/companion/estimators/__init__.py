"""The estimators of information on tasks with known answers."""
