// A js-libp2p circuit relay. Arguments: hex of a secp256k1 key, port, data limit of a circuit in bytes.
// Prints {"event": "ready", "addresses"} and ends with its stdin. Imports resolve where it is copied to: beside the rig's node_modules.
import { noise } from '@libp2p/noise'
import { yamux } from '@libp2p/yamux'
import { tcp } from '@libp2p/tcp'
import { identify } from '@libp2p/identify'
import { circuitRelayServer } from '@libp2p/circuit-relay-v2'
import { privateKeyFromRaw } from '@libp2p/crypto/keys'
import { createLibp2p } from 'libp2p'

const [key, port, limit] = process.argv.slice(2)
const node = await createLibp2p({
  privateKey: privateKeyFromRaw(Buffer.from(key, 'hex')),
  addresses: { listen: [`/ip4/127.0.0.1/tcp/${port}`] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionMonitor: { enabled: false },
  connectionGater: { denyDialMultiaddr: () => false },
  services: {
    identify: identify(),
    relay: circuitRelayServer({ reservations: { defaultDurationLimit: 3600 * 1000, defaultDataLimit: BigInt(limit) } })
  }
})
process.stdout.write(JSON.stringify({ event: 'ready', addresses: node.getMultiaddrs().map(String) }) + '\n')
for await (const _ of process.stdin) { /* until it is closed */ }
process.exit(0)
