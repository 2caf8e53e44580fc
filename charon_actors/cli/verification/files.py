"""The checks of `charon verify` for one file each, and what an operator is told about a fault. Source: specification 01, §§5.1, 6, 7.2, 12.

A fault of a hash comes with evidence: how the file differs from another copy, and which leaf, put back, makes the hash come out right
(`cluster/explain.py`). All checks that can be made after a fault are made; `Report` keeps the first for the command's end.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from charon_actors.cli.forked import verify_on_all_cores
from charon_actors.cli.verification.report import VerificationReport
from charon_actors.cluster.definition import Definition
from charon_actors.cluster.definition_candidates import Hints
from charon_actors.cluster.definition_json import decode_definition
from charon_actors.cluster.deposit import (
    Deposit,
    DepositFile,
    amounts_to_sign,
    decode_deposit_file,
    deposit_file_name,
    eth_number,
    verify_deposits,
    withdrawal_credentials,
)
from charon_actors.cluster.explain import Explanation, explain, first_difference, is_original
from charon_actors.cluster.faults import ClusterFault
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.lock_checks import DEPOSITS, LockCheck, check_definition, check_lock
from charon_actors.cluster.lock_json import decode_lock
from charon_actors.cluster.peers import Peer, of_consensus_clients, own_peer, peers_of
from charon_actors.cluster.registration import decode_overrides, verify_registrations
from charon_actors.cluster.schema import schema_of
from charon_actors.cluster.verify import ContractCheck
from charon_actors.errors import UserError
from charon_actors.eth2.networks import Network, network_by_fork_version
from charon_actors.files.data_directory import DEFINITION_FILE, LOCK_FILE
from charon_actors.share_index import share_index_of

Copy = tuple[str, Definition | Lock]  # another file that should say the same, and what to call it
MAX_LISTED: Final = 8

FRESH_COPY: Final = "restore the file from a backup or from another operator"


class FileChecks:
    """Checks files and tells `report`. networks: custom ones. against: copies to compare with. enrs: those of identity keys at hand."""

    def __init__(
        self, report: VerificationReport, networks: tuple[Network, ...], contract: ContractCheck | None, against: tuple[Copy, ...]
    ) -> None:
        self.report, self.networks = report, networks
        self.enrs: list[str] = []
        self._against, self._contract = against, contract
        self._verified_deposits: set[tuple[bytes, Deposit]] = set()  # with their network's genesis fork version
        self._locks: dict[bytes, tuple[str, Lock | None]] = {}  # by content: all nodes of a cluster have the same one

    # --- definition and lock ---------------------------------------------------------------------------------------------

    def lock(self, where: str, content: bytes, copies: Iterable[Copy] = (), shown: str = "") -> Lock | None:
        """Checks a lock. None when it can't be read; a lock whose checks fail is still good for comparing others with it."""
        shown = shown or where
        if content in self._locks:
            first, lock = self._locks[content]
            self.report.ok(shown, f"the same as {first}") if lock else self._repeat(where, first, shown)
            return lock
        try:
            lock = decode_lock(content)
        except ClusterFault as error:
            self._locks[content] = where, None
            self._unreadable(where, f"unmarshal {LOCK_FILE}: {error}", content, copies, shown, is_lock=True)
            return None
        self._locks[content] = where, lock
        self.report.note(shown, summary(lock.definition, self.networks))
        self._warn_of_enrs(shown, lock.definition)
        checks = check_lock(lock, self.networks, self._contract, verify_on_all_cores)
        self._checks(where, shown, checks, content, (lock, (*self._against, *copies)), "cluster lock ")
        return lock

    def definition(
        self, where: str, content: bytes, copies: Iterable[Copy] = (), shown: str = "", lock: Lock | None = None
    ) -> Definition | None:
        """Checks a definition. lock: that of the same folder."""
        shown = shown or where
        try:
            definition = decode_definition(content)
        except ClusterFault as error:
            self._unreadable(where, f"unmarshal {DEFINITION_FILE}: {error}", content, copies, shown, is_lock=False)
            return None
        if lock is not None:
            difference = first_difference(definition, lock.definition)
            if difference is None:
                self.report.ok(shown, "says the same as the lock")
                return definition
            what = f"differs from the lock: {difference.leaf} is {difference.ours} here, {difference.theirs} there"
            remedy = "the definition of a ceremony and its lock agree; find out which is the right one"
            self.report.fault(UserError(where, what, remedy), shown_where=shown)
        else:
            self.report.note(shown, summary(definition, self.networks))
            self._warn_of_enrs(shown, definition)
        checks = check_definition(definition, self.networks, self._contract)
        self._checks(where, shown, checks, content, (definition, (*self._against, *copies)), "definition ", lock)
        return definition

    def _warn_of_enrs(self, shown: str, definition: Definition) -> None:
        for warning in of_consensus_clients(definition.operators):
            self.report.warn(f"{shown}: {warning}")

    def _checks(
        self,
        where: str,
        shown: str,
        checks: Iterator[LockCheck],
        content: bytes,
        subject: tuple[Definition | Lock, tuple[Copy, ...]],
        kind: str,
        lock: Lock | None = None,
    ) -> None:
        value, copies = subject
        is_explained = False
        for check in checks:
            if not check.fault:
                self.report.ok(shown, check.name)
                if check.name == DEPOSITS and isinstance(value, Lock):
                    self._verified_deposits |= set(_deposits_of(value))
                continue
            details, remedy = list(check.details), _remedy(check)
            if check.is_hash and not is_explained:
                is_explained = True
                evidence, better_remedy = self._evidence(content, value, copies, lock)
                details, remedy = [*details, *evidence], better_remedy or remedy
            part = "hashes" if check.is_hash or "count" in check.name else "deposits" if check.name == DEPOSITS else "signatures"
            self.report.fault(UserError(where, f"verify {kind}{part}: {check.fault}", remedy), details, shown)
        if not is_explained:
            self._compare(where, shown, value)

    def _evidence(
        self, content: bytes, value: Definition | Lock, copies: Iterable[Copy], lock: Lock | None
    ) -> tuple[list[str], str]:
        """What is known about an edit, and the remedy if that is certain."""
        details: list[str] = []
        for name, copy in copies:
            difference = first_difference(value, copy)
            if difference is None:
                details.append(f"{name} says the same")
            elif is_original(copy, value):
                back = f"put {difference.leaf} back to {difference.theirs}"
                details.append(
                    f"{difference.leaf} is {difference.ours}; in {name} it is {difference.theirs}, where these hashes fit"
                )
                return details, f"{back}, or copy {name} here"
            else:
                details.append(
                    f"first difference from {name}: {difference.leaf} is {difference.ours} here, {difference.theirs} there"
                )
        explanation = explain(content, self._hints(lock), is_lock=isinstance(value, Lock))
        repair = explanation.repairs[0] if explanation.repairs else None
        return [*details, *_explained(explanation)], f"put {repair.leaf} back to {repair.fits}, or {FRESH_COPY}" if repair else ""

    def _compare(self, where: str, shown: str, value: Definition | Lock) -> None:
        for name, copy in self._against:
            difference = first_difference(value, copy)
            if difference is None:
                self.report.ok(shown, f"says the same as {name}")
            else:
                what = f"differs from {name}: {difference.leaf} is {difference.ours} here, {difference.theirs} there"
                self.report.fault(UserError(where, what, "find out which of the two all operators have"), shown_where=shown)

    def _unreadable(self, where: str, what: str, content: bytes, copies: Iterable[Copy], shown: str, *, is_lock: bool) -> None:
        explanation = explain(content, self._hints(None), is_lock=is_lock)
        remedy = FRESH_COPY
        if explanation.repairs:
            remedy = f"put {explanation.repairs[0].leaf} back to {explanation.repairs[0].fits}, or {FRESH_COPY}"
        self.report.fault(UserError(where, what, remedy), _explained(explanation), shown)

    def _repeat(self, where: str, first: str, shown: str) -> None:
        self.report.fault(UserError(where, f"has the fault of {first}", FRESH_COPY), shown_where=shown)

    def _hints(self, lock: Lock | None) -> Hints:
        return Hints(lock=lock, enrs=tuple(self.enrs), networks=self.networks)

    # --- who we are ------------------------------------------------------------------------------------------------------

    def operator(self, where: str, public_key: bytes, definition: Definition, shown: str = "") -> Peer | None:
        """Whose identity key this is (33 bytes) among the operators of a definition."""
        try:
            peer = own_peer(peers_of(definition), public_key)
        except ClusterFault as error:
            remedy = (
                "this folder's key and cluster files are of different clusters, or the key is a new one; restore the right one"
            )
            self.report.fault(UserError(where, str(error), remedy), shown_where=shown)
            return None
        self.report.ok(shown or where, f"that of {operator_text(definition, peer.index)}")
        return peer

    # --- deposits and registrations --------------------------------------------------------------------------------------

    def deposits(self, where: str, name: str, content: bytes, lock: Lock | None, shown: str = "") -> None:
        """name: the file's, "" where it doesn't matter."""
        shown = shown or where
        try:
            file = decode_deposit_file(content)
        except ClusterFault as error:
            self.report.fault(UserError(where, str(error), FRESH_COPY), shown_where=shown)
            return
        problems = [*self._deposit_problems(file, name, content), *(_problems_with_lock(file, name, lock) if lock else ())]
        for what, remedy in problems[:MAX_LISTED]:
            self.report.fault(UserError(where, what, remedy), shown_where=shown)
        if len(problems) > MAX_LISTED:
            self.report.note(shown, f"… and {len(problems) - MAX_LISTED} more such faults")
        if problems:
            return
        amounts = sorted({deposit.amount_gwei for deposit in file.deposits})
        compared = "keys and withdrawal addresses of the lock" if lock else "not compared with a lock"
        text = " and ".join(eth_text(amount) for amount in amounts)
        self.report.ok(shown, f"{len(file.deposits)} deposits of {text}, {file.network_name}: roots, signatures; {compared}")
        if lock and (
            missing := {validator.public_key for validator in lock.validators} - {each.pubkey for each in file.deposits}
        ):
            self.report.warn(f"{shown}: {len(missing)} validators of the lock have no deposit in it")

    def _deposit_problems(self, file: DepositFile, name: str, content: bytes) -> Iterator[tuple[str, str]]:
        never = "don't deposit with this file; " + FRESH_COPY
        try:
            new = [each for each in file.deposits if (file.fork_version, each) not in self._verified_deposits]
            verify_deposits(new, file.fork_version, verify_on_all_cores)
            self._verified_deposits |= {(file.fork_version, each) for each in new}
        except ClusterFault as error:
            yield str(error), never
        amounts = {deposit.amount_gwei for deposit in file.deposits}
        if len(amounts) > 1:
            yield "deposit datas have different amounts", never
        elif name and name != deposit_file_name(min(amounts)):
            yield (
                f"its deposits are of {eth_text(min(amounts))}, which its name denies",
                f"rename it to {deposit_file_name(min(amounts))}",
            )
        for pubkey, count in Counter(deposit.pubkey for deposit in file.deposits).items():
            if count > 1:
                yield f"validator 0x{pubkey.hex()} is in it {count} times", never
        network = network_by_fork_version(file.fork_version, self.networks)
        if network is None:
            yield "invalid fork version", "give the --testnet flags of its network"
        elif network.name != file.network_name:
            yield f'says network "{file.network_name}", its fork version is that of {network.name}', never

    def overrides(self, where: str, content: bytes, lock: Lock | None, shown: str = "") -> None:
        """Newer builder registrations. Without a lock nobody knows under which fork version they were signed."""
        shown = shown or where
        try:
            registrations = decode_overrides(content)
            if lock is None:
                raise UserError(where, "can't be checked without the cluster's lock", "pass --lock-file")
            verify_registrations(registrations, lock.definition.fork_version)
            known = {validator.public_key for validator in lock.validators}
            foreign = next((each for each in registrations if each.pubkey not in known), None)
            if foreign is not None:
                raise ClusterFault(f"validator 0x{foreign.pubkey.hex()} is not in the lock")
        except ClusterFault as error:
            remedy = "delete the file, or fetch it again; until then the lock's registrations count"
            self.report.fault(UserError(where, str(error), remedy), shown_where=shown)
        except UserError as error:
            self.report.fault(error, shown_where=shown)
        else:
            self.report.ok(shown, f"{len(registrations)} newer builder registrations: signatures, validators of the lock")


def _deposits_of(lock: Lock) -> Iterator[tuple[bytes, Deposit]]:
    """What the check of a lock's deposits has verified: those of the validator that they stand at."""
    for validator in lock.validators:
        for deposit in validator.deposits:
            if deposit.pubkey == validator.public_key:
                yield lock.definition.fork_version, deposit


def _problems_with_lock(file: DepositFile, name: str, lock: Lock) -> Iterator[tuple[str, str]]:
    definition = lock.definition
    never = "don't deposit with this file; it is of another cluster, or was edited"
    if file.fork_version != definition.fork_version:
        yield f"is for fork version 0x{file.fork_version.hex()}, the lock for 0x{definition.fork_version.hex()}", never
    indices = {validator.public_key: index for index, validator in enumerate(lock.validators)}
    for deposit in file.deposits:
        index = indices.get(deposit.pubkey)
        if index is None:
            yield f"validator 0x{deposit.pubkey.hex()} is not in the lock", never
            continue
        address = definition.validators[index].withdrawal_address
        try:
            expected = withdrawal_credentials(address, compounding=definition.compounding)
        except ClusterFault as error:
            yield f"validator {index} of the lock: {error}", never
            continue
        if deposit.withdrawal_credentials != expected:
            stored = f"0x{deposit.withdrawal_credentials.hex()}"
            yield f"validator {index}: withdrawal credentials {stored}, by the lock they are 0x{expected.hex()}", never
    amounts = amounts_to_sign(schema_of(definition.version), definition.deposit_amounts_gwei, compounding=definition.compounding)
    for amount in sorted({deposit.amount_gwei for deposit in file.deposits} - set(amounts) if name else ()):
        yield f"deposits of {eth_text(amount)}, which the definition doesn't have", never


def summary(definition: Definition, networks: tuple[Network, ...]) -> str:
    """What a definition is about, in a line."""
    network = network_by_fork_version(definition.fork_version, networks)
    network_name = network.name if network else f"fork version 0x{definition.fork_version.hex()}"
    operators = f"{definition.threshold} of {len(definition.operators)} operators"
    return f'"{definition.name}", {network_name}, {definition.version}, {operators}, {definition.num_validators} validators'


def operator_text(definition: Definition, index: int) -> str:
    """`operator 2 of 0-3, share index 3, happy-floor`."""
    try:
        name = f", {peers_of(definition)[index].name}"
    except (ClusterFault, IndexError):
        name = ""
    return f"operator {index} (of 0 to {len(definition.operators) - 1}), share index {share_index_of(index)}{name}"


def eth_text(amount_gwei: int) -> str:
    """`32 ETH`, `0.5 ETH`."""
    return f"{eth_number(amount_gwei)} ETH"


def _remedy(check: LockCheck) -> str:
    if check.fault.endswith("invalid fork version"):
        return "if its network is a custom one, give its --testnet flags; else " + FRESH_COPY
    if check.is_wallet:
        return "if a contract wallet signed, pass --execution-client-rpc-endpoint; else " + FRESH_COPY
    return FRESH_COPY + (", or compare with another copy: --against FILE" if check.is_hash else "")


def _explained(explanation: Explanation) -> Iterator[str]:
    for repair in explanation.repairs:
        yield f"{repair.leaf} is {repair.stored}; with {repair.fits} the hash comes out right ({repair.evidence})"
    if explanation.group:
        yield f"no single leaf was found that makes the hash come out right when put back; the edit is in: {explanation.group}"
    for suspect in explanation.suspects:
        yield f"{suspect.leaf}: {suspect.evidence}"
