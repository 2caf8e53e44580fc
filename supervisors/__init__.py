"""Second floor: who keeps it running. The supervisor, and the programs that are made of actors: node, ceremony, simnet."""
