// What js-libp2p 3 expects of Node 22, for Node 20.
if (!Promise.withResolvers) {
  Promise.withResolvers = function () {
    let resolve, reject
    const promise = new this((res, rej) => { resolve = res; reject = rej })
    return { promise, resolve, reject }
  }
}
if (!globalThis.CustomEvent) globalThis.CustomEvent = class CustomEvent extends Event {
  constructor (name, options) { super(name, options); this.detail = options?.detail }
}
