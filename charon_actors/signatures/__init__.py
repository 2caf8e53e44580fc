"""Partial signatures between nodes: the message on the wire, what an entry is for, which of several carries the group's signature."""
