"""Cluster files: what the operators agreed on, the keys that came of it, and what both files say. Pure; `charon_actors/files` has the disk.

    definition, lock             the two files as values        definition_json, lock_json   their bytes
    hashes, merkle, schema       their hashes, by version       deposit, registration        what validators sign once
    eip712, verify, lock_checks  who signed what, is it right   peers, threshold             the operators
    explain, repair              what a wrong file may be       dealer, key_shares           all keys of one machine, one node's keys
    key_lock                     who uses a node's key now

Import from the defining module: `charon enr` loads what it needs alone, without BLS and verification.
"""
