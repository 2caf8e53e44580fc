"""First floor: who does the work. Trio actors, each with its own mailbox and state; they do I/O and ask the ground floor for the rules."""
