/**
 * Doorbells: stores that the device acts upon at once, so everything written before must be visible first.
 *
 * On x86-64 a store to device memory never passes earlier stores to ordinary memory, and a plain aligned store is one
 * instruction. On arm64 it may pass them: `Atomics.store` is a store-release, which waits for them. (On x86-64 the same
 * call would be a locked exchange, which reads the doorbell too: never there.)
 */
export type DoorbellWriter = (words: Uint32Array, index: number, value: number) => void;

function plainStore(words: Uint32Array, index: number, value: number): void {
  words[index] = value;
}

function releaseStore(words: Uint32Array, index: number, value: number): void {
  Atomics.store(words, index, value);
}

export function doorbellWriter(arch: string = process.arch): DoorbellWriter {
  return arch === 'x64' ? plainStore : releaseStore;
}
