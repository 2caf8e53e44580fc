"""Validator client's mock: holds one node's key shares and does, over the real HTTP validator API, what a validator client does.

It believes that its public shares are its validators' keys. It asks for duties, attests when that is due, proposes at the slot's
start, and keeps no slashing records of its own: the node's are to hold.

Source: specification 07 §7.2 (who calls what when), 08 §12.2.
"""

from collections.abc import Callable, Mapping
from typing import Any

import httpx
import trio

from actors.log import get_logger
from charon_actors.crypto import sign
from charon_actors.eth2 import containers
from charon_actors.eth2.chain import Chain
from charon_actors.eth2.duty import Duty, DutyType, start_s
from charon_actors.eth2.forks import Fork, fork_from_label
from charon_actors.eth2.signing import DomainType
from charon_actors.eth2.unsigned_data import AttestationData

log = get_logger("vmock")


class ValidatorMock:
    """secrets: share secrets (32 bytes) by public share (48 bytes). url: of the node's validator API."""

    def __init__(self, url: str, secrets: Mapping[bytes, bytes], chain: Chain, wall_clock: Callable[[], float]) -> None:
        self._url, self._secrets, self._chain, self._clock = url, dict(secrets), chain, wall_clock
        self.failures = 0

    async def run(self) -> None:
        """Until cancelled. Requests that fail are logged and counted; nothing is repeated within a slot."""
        async with (
            httpx.AsyncClient(base_url=self._url, timeout=10, verify=False, trust_env=False) as self._client,  # noqa: S501  # loopback, plain http
            trio.open_nursery() as nursery,
        ):
            known: dict[int, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
            slot = max(self._chain.slot_at(self._clock()), 0)
            await self._sleep_until(self._chain.slot_start_s(slot))
            while True:
                epoch = self._chain.epoch_of(slot)
                if epoch not in known:
                    known[epoch] = await self._duties(epoch)
                attesters, proposers = known[epoch]
                for duty in proposers:
                    if int(duty["slot"]) == slot:
                        nursery.start_soon(self._try, self._propose, slot, bytes.fromhex(duty["pubkey"][2:]))
                due = [duty for duty in attesters if int(duty["slot"]) == slot]
                if due:
                    nursery.start_soon(self._try, self._attest, slot, due)
                if self._chain.epoch_of(slot + 1) > epoch:  # read ahead, away from the first slot's own work
                    await self._sleep_until(self._chain.slot_start_s(slot) + 0.6 * self._chain.slot_duration_s)
                    with trio.move_on_at(trio.current_time() + 0.3 * self._chain.slot_duration_s):
                        known = {epoch + 1: await self._duties(epoch + 1)}
                await self._sleep_until(self._chain.slot_start_s(slot + 1))
                slot = max(slot + 1, self._chain.slot_at(self._clock()))

    async def _sleep_until(self, unix_s: float) -> None:
        await trio.sleep(max(unix_s - self._clock(), 0))

    async def _try(self, what: Callable[..., Any], slot: int, argument: Any) -> None:
        try:
            await what(slot, argument)
        except (httpx.HTTPError, KeyError, ValueError) as error:
            self.failures += 1
            log.warning("A request of the validator client failed", slot=slot, what=what.__name__.strip("_"), error=str(error))

    async def _duties(self, epoch: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        while True:
            try:
                ids = ["0x" + pubkey.hex() for pubkey in self._secrets]
                validators = (await self._post("/eth/v1/beacon/states/head/validators", {"ids": ids}))["data"]
                indices = [validator["index"] for validator in validators]
                attesters = (await self._post(f"/eth/v1/validator/duties/attester/{epoch}", indices))["data"]
                proposers = (await self._get(f"/eth/v1/validator/duties/proposer/{epoch}"))["data"]
                ours = {"0x" + pubkey.hex() for pubkey in self._secrets}
                return attesters, [duty for duty in proposers if duty["pubkey"] in ours]
            except (httpx.HTTPError, KeyError, ValueError) as error:
                self.failures += 1
                log.debug("Duties are not there yet", epoch=epoch, error=str(error))
            await trio.sleep(self._chain.slot_duration_s / 4)

    async def _attest(self, slot: int, duties: list[dict[str, Any]]) -> None:
        await self._sleep_until(start_s(Duty(slot, DutyType.ATTESTER), self._chain))
        answer = await self._get("/eth/v1/validator/attestation_data", slot=slot, committee_index=0)
        data = AttestationData.from_json(answer["data"])
        root = self._chain.signing_root(data.hash_tree_root(), DomainType.BEACON_ATTESTER, data.target_epoch)
        attestations = [
            {
                "committee_index": duty["committee_index"],
                "attester_index": duty["validator_index"],
                "data": answer["data"],
                "signature": "0x" + sign(self._secrets[bytes.fromhex(duty["pubkey"][2:])], root).hex(),
            }
            for duty in duties
        ]
        fork = self._chain.fork_at(data.target_epoch)
        await self._post("/eth/v2/beacon/pool/attestations", attestations, fork)

    async def _propose(self, slot: int, public_share: bytes) -> None:
        epoch = self._chain.epoch_of(slot)
        root = self._chain.signing_root(epoch.to_bytes(32, "little"), DomainType.RANDAO, epoch)
        randao = "0x" + sign(self._secrets[public_share], root).hex()
        answer = await self._get(f"/eth/v3/validator/blocks/{slot}", randao_reveal=randao)
        fork = fork_from_label(answer["version"])
        block = answer["data"]["block"]
        schema = containers.beacon_block(fork)
        object_root = schema.hash_tree_root(schema.from_json(block))
        signing_root = self._chain.signing_root(object_root, DomainType.BEACON_PROPOSER, epoch)
        signature = "0x" + sign(self._secrets[public_share], signing_root).hex()
        contents = {**answer["data"], "signed_block": {"message": block, "signature": signature}}
        del contents["block"]
        await self._post("/eth/v2/beacon/blocks", contents, fork)

    async def _get(self, path: str, **query: Any) -> Any:
        answer = await self._client.get(path, params=query)
        answer.raise_for_status()
        return answer.json()

    async def _post(self, path: str, body: Any, fork: Fork | None = None) -> Any:
        headers = {} if fork is None else {"Eth-Consensus-Version": fork.label}
        answer = await self._client.post(path, json=body, headers=headers)
        answer.raise_for_status()
        return answer.json() if answer.content else None
