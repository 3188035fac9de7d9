/** What the control plane of a driver needs of an event loop (src/sys/event-loop.ts has more); tests give one with their own clock. */
export interface ControlLoop {
  /** Nanoseconds, refreshed once a pass. */
  readonly now: number;
  /** Call once, after so many milliseconds. */
  after(ms: number, fn: () => void): { cancel(): void };
  /** Call whenever the descriptor is readable. */
  watch(fd: number, onReadable: () => void): { close(): void };
}
