"""A whole cluster in one process: mocks of what stands around it, and the means to make it misbehave."""
