"""What becomes of a ceremony's results: key manager, disk, Obol API, archive. In this order:

    keystores                  to the key manager, if one is given; if it doesn't take all of them, to disk with the rest
    keystores, lock, deposits  to the data directory, all at once, by the ceremony itself
    (the last barriers)        all operators have the same results
    publish                    the lock; that it fails is a warning
    zip                        identity key, definition and results into dkg.tar.gz, and away with the originals

Publishing comes after the files, not before them as in Charon: nothing that the network does may cost results. A key manager that
fails is no reason to spoil the ceremony of the other operators either: it goes on to its end, and then the command fails.

Source: specification 01 §7.3, §10.3; 11 §1, §11, §12.
"""

from collections.abc import Sequence
from pathlib import Path

import structlog
import trio

from charon_actors.cli.options.table import Values
from charon_actors.cli.services.http_request import HttpFault
from charon_actors.cli.services.keymanager import KeyManager, key_managers
from charon_actors.cli.services.obol_api import ObolApi, obol_api, try_to_publish_lock
from charon_actors.cluster.lock import Lock
from charon_actors.errors import UserError
from charon_actors.files.archive import CEREMONY_ARCHIVE, archive_ceremony
from charon_actors.files.keystore_files import Keystore
from charon_actors.files.staging import is_taken

log = structlog.get_logger(topic="dkg")


class Results:
    """For one ceremony. manager, api: None when not wanted."""

    def __init__(self, directory: Path, manager: KeyManager | None, api: ObolApi | None, *, is_zipped: bool) -> None:
        self.manager, self._directory, self._api, self._is_zipped = manager, directory, api, is_zipped
        self._failure: UserError | None = None

    async def deliver(self, keystores: Sequence[Keystore]) -> bool:
        """Push them to the key manager; whether all of them are there. Cancellation: some of them may be."""
        assert self.manager is not None
        address = self.manager.service.label
        try:
            await self.manager.push(keystores)
        except HttpFault as fault:
            where = f"{self.manager.where} ({address})"
            remedy = "the keystores are with the other results instead: import them into this one validator client, nowhere else"
            self._failure = UserError(where, f"post keys to keymanager failed: {fault}", remedy)
            log.error("The key manager did not take the keystores; writing them to disk", key_manager=address, error=str(fault))
            return False
        except trio.Cancelled:
            log.warning("Stopped while the key manager took the keystores; writing them to disk as well", key_manager=address)
            raise
        log.info("The key manager has the keystores", key_manager=address, validators=len(keystores))
        return True

    async def finish(self, lock: Lock) -> None:
        """Once all operators have them. Raises UserError when there can't be an archive, or when `deliver` failed."""
        if self._api is not None:
            is_published, told = await try_to_publish_lock(self._api, lock)
            log.info(told) if is_published else log.warning(told)
        if self._is_zipped:
            with trio.CancelScope(shield=True):  # once it begins, it is done or undone as a whole
                path = await trio.to_thread.run_sync(archive_ceremony, self._directory)
            log.info("Put identity key, definition and results into an archive; back it up", path=str(path))
        if self._failure is not None:
            raise self._failure


def results_of(values: Values) -> Results:
    """From the flags, checked; the key manager has been dialed. Raises UserError."""
    directory, is_zipped = values.path("data-dir"), values.switch("zipped")
    api = obol_api(values, values.seconds("publish-timeout"))
    manager = _key_manager(values)
    if manager is not None:
        manager.dial()
    if is_zipped and is_taken(directory / CEREMONY_ARCHIVE):
        remedy = "move it away (it may hold keys of live validators)"
        raise UserError(str(directory / CEREMONY_ARCHIVE), "data directory not clean, cannot continue", remedy)
    return Results(directory, manager, api, is_zipped=is_zipped)


def _key_manager(values: Values) -> KeyManager | None:
    flag, token_flag = "keymanager-address", "keymanager-auth-token"
    address, token = values.text(flag), values.text(token_flag)
    if bool(address) != bool(token):
        given, missing = (flag, token_flag) if address else (token_flag, flag)
        what = f"--{given} provided but --{missing} not set, fix configuration flags"
        raise UserError(values.where(given), what, "give both, or none")
    return key_managers(values, [address], [token], flag, token_flag)[0] if address else None
