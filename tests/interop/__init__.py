"""Tests with programs that nobody here wrote. `install.sh` installs them; a test whose peer is absent is skipped, with the reason."""
