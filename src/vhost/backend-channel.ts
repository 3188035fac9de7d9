/**
 * The back end's own messages to its front end, on the socket that SET_BACKEND_REQ_FD brings. We send one kind, and ask
 * for no answer: so nothing is ever received here, and a message that does not fit waits and stands for those after it.
 */
import { EPOLL } from '../sys/constants.ts';
import type { EventLoop, Watch } from '../sys/event-loop.ts';
import type { Fd } from '../sys/fd.ts';
import { sendWithFds } from '../sys/socket.ts';
import { BackendRequest, backendMessage } from './messages.ts';

export class BackendChannel {
  /** Messages sent. */
  sent = 0;
  private readonly loop: EventLoop;
  private readonly fd: Fd;
  private readonly onError: (reason: string) => void;
  private unsent: Uint8Array = new Uint8Array(0);
  /** The config space has changed since the last message was begun. */
  private changed = false;
  private watch: Watch | null = null;
  private closed = false;

  /**
   * @param fd a connected stream socket, owned from now on
   * @param onError the front end cannot be told any more; the channel is closed
   */
  constructor(loop: EventLoop, fd: Fd, onError: (reason: string) => void) {
    this.loop = loop;
    this.fd = fd;
    this.onError = onError;
  }

  /** The front end shall read the config space again. */
  configChanged(): void {
    this.changed = true;
    if (this.watch === null) this.flush();
  }

  private readonly flush = (): void => {
    if (this.closed) return;
    try {
      while (this.changed || this.unsent.length > 0) {
        if (this.unsent.length === 0) {
          this.unsent = backendMessage(BackendRequest.CONFIG_CHANGE);
          this.changed = false;
        }
        const sent = sendWithFds(this.fd, this.unsent);
        if (sent < 0) {
          this.watch ??= this.loop.watch(this.fd.number, this.flush, EPOLL.OUT);
          return;
        }
        this.unsent = this.unsent.subarray(sent);
        if (this.unsent.length === 0) this.sent++;
      }
      this.watch?.close();
      this.watch = null;
    } catch (error) {
      this.close();
      this.onError((error as Error).message);
    }
  };

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.watch?.close();
    this.watch = null;
    this.fd.close();
  }
}
