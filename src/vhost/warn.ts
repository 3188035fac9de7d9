/**
 * Warnings about front ends. A hostile one can cause as many as it likes, so only so many are written in a while;
 * the rest is counted. What happened last is in the session's `describe()` all the same.
 */
import { logger } from '../sys/log.ts';

const log = logger('vhost');

const LINES = 20;
const WHILE_MS = 10_000;

let windowStart = 0;
let written = 0;
let kept = 0;

export function warn(text: string): void {
  const now = performance.now();
  if (now - windowStart > WHILE_MS) {
    if (kept > 0) log.warn(`${kept} more warnings like these were not written`);
    windowStart = now;
    written = kept = 0;
  }
  if (written < LINES) {
    written++;
    log.warn(text);
  } else {
    kept++;
  }
}
