"""First floor: who does the work. Trio actors, each with a mailbox and a state of its own, that do I/O and ask the ground floor for the rules."""
