/**
 * Whether a front end is at the other end. Each kind of device tells it in another way; what follows from it is the port's business.
 * One rule for all: messages that came before the link went down are handled before that is believed.
 */
export interface LinkEvents {
  /** A front end is there. */
  linkUp(): void;
  /** The stream was interrupted and goes on: the same front end, or (its first message tells) a new one. */
  linkInterrupted(reason: string): void;
  linkDown(reason: string): void;
  /** Handle what has been received. @returns false when something is left because the session is busy */
  drainMessages(): boolean;
}

export interface Link {
  readonly up: boolean;
  /** The device is started. */
  begin(): void;
  /** Something may have changed. */
  check(): void;
  /**
   * A message, before the session sees it.
   * @returns true when it was for the link
   */
  intercept(message: Uint8Array): boolean;
  /** The session ended by itself: the front end should learn it. */
  hangUp(reason: string): void;
  /** The driver goes. @param then when the device may be reset */
  end(then: () => void): void;
  /** A hint for the operator while the link is down, or null. */
  readonly hint: string | null;
}
