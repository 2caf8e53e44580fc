"""Locks of 1000 validators: reading, hashing, verifying; and a batch of partial signatures against one by one.

    python tests/benches/lock_bench.py

Milliseconds of CPU time in one process. Ratios are of the same run. Results are kept in docs/benchmarks.md.
"""

import argparse
import random
import resource
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parents[2]))

from charon_actors.cluster.dealer import deal
from charon_actors.cluster.hashes import lock_hash
from charon_actors.cluster.lock import Lock
from charon_actors.cluster.lock_json import decode_lock, encode_lock
from charon_actors.cluster.threshold import default_threshold
from charon_actors.cluster.verify import verify_lock
from charon_actors.crypto.batch import Check, verify_all
from charon_actors.crypto.bls import generate_secret, public_key, sign, verify
from charon_actors.crypto.group import decode_public_key
from charon_actors.crypto.secp256k1 import k1_generate
from tests.charon_actors.cluster.test_dealer import definition_for

Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    decode_public_key.cache_clear()
    start = time.process_time()
    result = work()
    return (time.process_time() - start) * 1000, result


def locks(validators: int, operators: int) -> None:
    keys = [k1_generate(secrets.token_bytes) for _ in range(operators)]
    definition = definition_for(keys, validators, default_threshold(operators))
    group_secrets = [generate_secret(secrets.token_bytes) for _ in range(validators)]
    dealt_ms, dealt = timed(lambda: deal(definition, group_secrets, keys, registered_at_s=1, entropy=secrets.token_bytes))
    written_ms, content = timed(lambda: encode_lock(dealt.lock))
    read_ms, lock = timed(lambda: decode_lock(content))
    hashed_ms, _ = timed(lambda: lock_hash(lock))
    verified_ms, _ = timed(lambda: _verify(lock))
    print(
        f"{validators} validators, {operators} operators, {len(content) >> 10} KiB: deal {dealt_ms:.0f}, write {written_ms:.0f}, ",
        end="",
    )
    print(f"read {read_ms:.0f}, lock hash {hashed_ms:.0f}, full verification {verified_ms:.0f} ms")


def _verify(lock: Lock) -> None:
    verify_lock(lock)


def batches(count: int) -> None:
    """One partial signature of each of `count` validators, one message (a sync committee's) or one each (attestations of many)."""
    group_secrets = [generate_secret(random.Random(place).randbytes) for place in range(count)]
    keys = [public_key(secret) for secret in group_secrets]
    for what, messages in (
        ("one message", [bytes(32)] * count),
        ("32 messages", [bytes([place % 32]) * 32 for place in range(count)]),
        ("distinct messages", [random.Random(place).randbytes(32) for place in range(count)]),
    ):
        signatures = [sign(secret, message) for secret, message in zip(group_secrets, messages, strict=True)]
        batch(what, [Check(*row) for row in zip(keys, messages, signatures, strict=True)])


def batch(what: str, checks: list[Check]) -> None:
    count = len(checks)
    single_ms, answers = timed(lambda: [verify(*check) for check in checks])
    batch_ms, batch_answers = timed(lambda: verify_all(checks, secrets.token_bytes))
    assert answers == batch_answers == [True] * count
    wrong = [*checks[:-1], checks[-1]._replace(signature=checks[0].signature)]
    wrong[count // 2] = wrong[count // 2]._replace(message=b"another")
    culprit_ms, found = timed(lambda: verify_all(wrong, secrets.token_bytes))
    assert [place for place, is_right in enumerate(found) if not is_right] == [count // 2, count - 1]
    print(f"{count} signatures, {what}: one by one {single_ms:.0f} ms, batch {batch_ms:.0f} ms", end="")
    print(
        f" ({single_ms / batch_ms:.1f} times as fast), with two culprits found {culprit_ms:.0f} ms ({single_ms / culprit_ms:.1f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--validators", type=int, default=1000)
    options = parser.parse_args()
    batches(options.validators)
    for operators in (4, 10):
        locks(options.validators, operators)
    print(f"peak RSS {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")


if __name__ == "__main__":
    main()
