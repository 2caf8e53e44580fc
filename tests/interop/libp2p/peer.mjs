// A js-libp2p peer that is driven over stdin and stdout by JSON lines: {"id", "op", ...} → {"id", "ok": …} or {"id", "error": "…"}.
// Arguments: hex of a secp256k1 key. Prints {"event": "ready", "peer", "addresses"} first. It ends with its stdin.
import { createInterface } from 'node:readline'
import { noise } from '@libp2p/noise'
import { yamux } from '@libp2p/yamux'
import { tcp } from '@libp2p/tcp'
import { identify, identifyPush } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { privateKeyFromRaw } from '@libp2p/crypto/keys'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const node = await createLibp2p({
  privateKey: privateKeyFromRaw(Buffer.from(process.argv[2], 'hex')),
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionMonitor: { enabled: false },
  connectionGater: { denyDialMultiaddr: () => false },
  services: { identify: identify(), identifyPush: identifyPush(), ping: ping() }
})

const options = { runOnLimitedConnection: true, maxInboundStreams: 4096, maxOutboundStreams: 4096 }
let sunk = 0

await node.handle('/echo/1.0.0', async (stream) => {
  try {
    for await (const chunk of stream) {
      if (!stream.send(chunk)) await stream.onDrain()
    }
    await stream.close()
  } catch (error) {
    stream.abort(error)
  }
}, options)

await node.handle('/sink/1.0.0', async (stream) => {
  try {
    for await (const chunk of stream) sunk += chunk.byteLength
    await stream.close()
  } catch (error) {
    stream.abort(error)
  }
}, options)

async function echo (connection, size) {
  const stream = await connection.newStream('/echo/1.0.0', options)
  const sent = Buffer.alloc(size, size % 251)
  const reading = (async () => {
    let count = 0
    for await (const chunk of stream) {
      for (const byte of [chunk.subarray(0, 1)[0], chunk.subarray(chunk.byteLength - 1)[0]]) {
        if (byte !== size % 251) throw new Error('the echo differs')
      }
      count += chunk.byteLength
    }
    return count
  })()
  for (let start = 0; start < size; start += 65536) {
    if (!stream.send(sent.subarray(start, start + 65536))) await stream.onDrain()
  }
  await stream.close()
  const count = await reading
  if (count !== size) throw new Error(`${count} of ${size} bytes came back`)
}

const operations = {
  async dial ({ address }) { return (await node.dial(multiaddr(address))).remotePeer.toString() },
  async ping ({ address }) { return await node.services.ping.ping(multiaddr(address)) },
  async echo ({ size, count, parallel }) {
    const connection = node.getConnections()[0]
    for (let done = 0; done < count; done += parallel) {
      await Promise.all(Array.from({ length: Math.min(parallel, count - done) }, () => echo(connection, size)))
    }
    return count
  },
  async identify () { return (await node.services.identify.identify(node.getConnections()[0])).protocols },
  async refused ({ protocol }) {
    try { await node.getConnections()[0].newStream(protocol, options) } catch (error) { return error.name }
  },
  async state () {
    return {
      connections: node.getConnections().length,
      streams: node.getConnections().reduce((sum, connection) => sum + connection.streams.length, 0),
      sunk,
      protocols: (await node.peerStore.all()).map((peer) => peer.protocols)
    }
  }
}

const say = (message) => process.stdout.write(JSON.stringify(message) + '\n')
say({ event: 'ready', peer: node.peerId.toString(), addresses: node.getMultiaddrs().map(String) })
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line)
  operations[request.op](request).then(
    (ok) => say({ id: request.id, ok: ok ?? null }),
    (error) => say({ id: request.id, error: `${error.name}: ${error.message}` })
  )
}
process.exit(0)
