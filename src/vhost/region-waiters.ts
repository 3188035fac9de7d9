/**
 * Sessions of one controller that were given the same inflight region. A front end may come back sooner than the requests of
 * its last session end: to do those again has to wait, or an old write could overtake a new one.
 */
interface RegionUser {
  readonly ended: string | null;
  readonly inflight: { readonly key: string } | null;
}

export class RegionWaiters {
  private readonly sessions: ReadonlySet<RegionUser>;
  private readonly waiting: { key: string; then: () => void }[] = [];

  constructor(sessions: ReadonlySet<RegionUser>) {
    this.sessions = sessions;
  }

  /** Whether a session that ends still has the region. If so, `then` is called when none has it any more. */
  inUse(key: string, then: () => void): boolean {
    const busy = [...this.sessions].some((s) => s.ended !== null && s.inflight?.key === key);
    if (busy) this.waiting.push({ key, then });
    return busy;
  }

  /** A session has gone from the set. */
  sessionClosed(): void {
    for (const { key, then } of this.waiting.splice(0)) {
      // More than one old session may hold it.
      if (!this.inUse(key, then)) then();
    }
  }
}
