"""The py-libp2p side of `libp2p_bench.py`, run in a virtual environment of its own: noise and yamux, as ours.

python py_libp2p_dialer.py ROUND_TRIPS ADDRESS…     prints {"handshake_s": […], "round_trip_s": […]}
"""
# mypy: ignore-errors

import json
import sys
import time

import multiaddr
import trio
from libp2p import new_host
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport


async def main(round_trips: int, addresses: list[str]) -> None:
    keys = create_new_key_pair()
    security = {NOISE: NoiseTransport(keys, noise_privkey=create_noise_key_pair().private_key)}
    host = new_host(key_pair=keys, sec_opt=security, muxer_preference="YAMUX")
    handshakes, trips = [], []
    async with host.run(listen_addrs=[]):
        for address in addresses:
            peer = info_from_p2p_addr(multiaddr.Multiaddr(address))
            start = time.perf_counter()
            await host.connect(peer)
            handshakes.append(time.perf_counter() - start)
        for _ in range(round_trips):
            start = time.perf_counter()
            stream = await host.new_stream(peer.peer_id, ["/ipfs/ping/1.0.0"])
            await stream.write(bytes(32))
            assert len(await stream.read(32)) == 32
            trips.append(time.perf_counter() - start)
            await stream.reset()
    print(json.dumps({"handshake_s": handshakes, "round_trip_s": trips}), flush=True)


trio.run(main, int(sys.argv[1]), sys.argv[2:])
