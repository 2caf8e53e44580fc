"""The signed objects of the duties, by family. The table of all of them is `charon_actors/eth2/signed_data.py`."""
