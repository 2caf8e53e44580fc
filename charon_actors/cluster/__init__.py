"""Cluster files: what the operators agreed on, the keys that came of it, and how both stand on disk.

    definition, lock        the two files as values        deposit, registration   what validators sign once
    hashes, merkle, schema  their hashes, by version       eip712, verify          who signed what, and is it right
    peers, threshold        the operators                  dealer                  all keys made on one machine
    identity, key_lock      the node's own key             staging, data_directory the disk

Import from the defining module: `charon enr` loads `identity` alone, without BLS and verification.
"""
