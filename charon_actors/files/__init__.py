"""The node's files on disk: what is read and written, with which names and modes, whole or not at all. The one room here that does I/O.

    staging          a directory's new files appear together, or none of them
    data_directory   definition, lock, deposit data, the key's lock file: what `.charon` holds
    keystore_files   validator_keys: keystores and their passwords
    identity         charon-enr-private-key
    archive          a ceremony's results in one file

What the files say is known by `charon_actors/cluster` and `charon_actors/crypto`, which never touch a disk. All of it is synchronous: who
must not wait calls it in a thread. Import from the defining module: `charon enr` loads `identity` alone, without BLS and verification.
"""
