"""Identity: who this node is to others: its node record (EIP-778), signed by the ENR key, with a sequence number that only grows.

Accepts     FetchRecord, Readdress (ask)
Owns        the node record and the file it is kept in
May touch   that file. Not: the cluster's lock, whose ENR names the key only and never changes
Mailbox     64, policy `reject`
Cancelled   at any time: a record is on disk before anybody is told of it
Restart     from disk
Source      EIP-778; specification 02-enr-discovery §1; architecture §4 (own ENR sequence before the first packet)

A record says where we can be reached. When that changed, a new record with the next sequence number replaces the old one, so that
peers who keep old records for ever can tell which is newer. A file that is damaged, or that another key has signed, is the
operator's to decide about: it is never overwritten. While the disk is full, or fails, it keeps trying, once in WRITE_AGAIN_S, and
nobody is told anything.
"""

from pathlib import Path
from typing import Final, assert_never

import msgspec
import trio

from actors.change_log import ChangeLog
from actors.log import get_logger
from actors.mailbox import Inbox, Request
from actors.twin_file import sync_folder
from charon_actors.crypto import k1_public_key
from charon_actors.enr import EnrFault, Record, decode_enr, new_record
from charon_actors.errors import UserError
from charon_actors.files.staging import write_file
from charon_actors.passing_errors import may_pass

log = get_logger("p2p")

RECORD_FILE = "node-record.enr"
MAX_RECORD_BYTES = 4096
WRITE_AGAIN_S: Final = 1.0


class Endpoint(msgspec.Struct, frozen=True):
    """Where peers can reach us. ip: text, None if unknown. tcp, udp: ports, None if we don't listen."""

    ip: str | None = None
    tcp: int | None = None
    udp: int | None = None


class FetchRecord(Request[Record], frozen=True):
    """The record of now. Cancellation: at any time."""


class Readdress(Request[Record], frozen=True):
    """We can be reached elsewhere now. The reply is the record of now: a new one, on disk, if that is news; otherwise the old one.

    Raises: UserError (the file can't be written). Cancellation: the change may have happened.
    """

    endpoint: Endpoint


Message = FetchRecord | Readdress


class Identity:
    """One incarnation. private_key: the ENR key, 32 bytes. directory: where the record is kept."""

    def __init__(self, private_key: bytes, directory: Path, endpoint: Endpoint) -> None:
        self._private_key, self._path, self._endpoint = private_key, directory / RECORD_FILE, endpoint
        self._thread = trio.CapacityLimiter(1)

    async def run(self, inbox: Inbox[Message]) -> None:
        record = await self._readdressed(self._load(), self._endpoint)
        async for mail in inbox:
            match mail.message:
                case FetchRecord() as request:
                    mail.reply_to(request).send(record)
                case Readdress(endpoint) as news:
                    record = await self._readdressed(record, endpoint)
                    mail.reply_to(news).send(record)
                case unknown:
                    assert_never(unknown)

    def _load(self) -> Record | None:
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_RECORD_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(str(self._path), f"can't be read ({error.strerror})", "mend the permissions") from error
        try:
            record = decode_enr(content.decode("ascii").strip())
        except (EnrFault, UnicodeDecodeError) as error:
            remedy = "delete it if it is of no use: peers then take the next record for an old one"
            raise UserError(str(self._path), f"not a node record ({error})", remedy) from error
        if record.public_key != k1_public_key(self._private_key):
            raise UserError(str(self._path), "the node record of another key", "move it back to the node it belongs to")
        return record

    async def _readdressed(self, record: Record | None, endpoint: Endpoint) -> Record:
        if record is not None and endpoint_of(record) == endpoint:
            return record
        new = new_record(
            self._private_key, seq=1 if record is None else record.seq + 1, ip=endpoint.ip, tcp=endpoint.tcp, udp=endpoint.udp
        )
        warnings = ChangeLog(repeat_s=60.0)
        while True:
            try:
                await trio.to_thread.run_sync(self._write, new, limiter=self._thread)
                break
            except OSError as error:
                if not may_pass(error):
                    raise UserError(
                        str(self._path), f"can't be written ({error.strerror})", "mend the permissions or the disk"
                    ) from error
                if warnings.is_due(error.errno, trio.current_time()):
                    log.warning("The node record can't be written, trying again", file=str(self._path), reason=error.strerror)
            await trio.sleep(WRITE_AGAIN_S)
        log.info("New node record", seq=new.seq, ip=endpoint.ip, tcp=endpoint.tcp)
        return new

    def _write(self, record: Record) -> None:
        """On disk before anybody is told, the name as well: a sequence number that is lost would be used twice. Raises OSError."""
        staged = self._path.with_suffix(".new")
        staged.unlink(missing_ok=True)
        write_file(staged, record.encode().encode("ascii"), 0o644)
        staged.replace(self._path)
        sync_folder(self._path.parent)


def endpoint_of(record: Record) -> Endpoint:
    """What a record says about where its node can be reached."""
    return Endpoint(record.ip, record.tcp, record.udp)
