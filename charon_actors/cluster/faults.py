"""What is wrong with a cluster file."""


class ClusterFault(Exception):
    """A definition, lock, deposit or registration that cannot be read or must not be used. Texts: specification 01."""
