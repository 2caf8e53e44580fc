"""Ground floor: what a node knows. The rules of every protocol, synchronous and pure: no network, no clock, no randomness of its own.

`charon_actors/files` alone touches the disk. `charon_actors/cli` is the command line, which stands above all floors.
"""
