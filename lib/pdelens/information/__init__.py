"""Information in nats: estimators, what each is blind to, checks, and tasks with known answers."""
