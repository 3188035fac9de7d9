/**
 * One builder at a time: two test processes may want the same package or image at the same moment. The lock is a file
 * that holds its owner's process id; a lock whose owner is gone is taken over.
 */
import { closeSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { cachePath } from './paths.ts';
import { progress } from './progress.ts';

const LIMIT_MS = 30 * 60_000;

function take(path: string): boolean {
  try {
    const fd = openSync(path, 'wx');
    writeSync(fd, String(process.pid));
    closeSync(fd);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    return false;
  }
}

function ownerIsGone(path: string): boolean {
  try {
    const pid = Number(readFileSync(path, 'utf8'));
    // An empty file is a lock whose owner has not yet written its id.
    if (pid === 0) return false;
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}

/** Runs `work` while no other process of this machine runs work under the same name. Not reentrant. */
export async function exclusively<T>(name: string, work: () => Promise<T>): Promise<T> {
  const path = cachePath('locks', name);
  const release = () => rmSync(path, { force: true });
  const deadline = Date.now() + LIMIT_MS;
  for (let waits = 0; !take(path); waits++) {
    if (ownerIsGone(path)) release();
    else if (Date.now() > deadline) throw new Error(`${path} is held for more than 30 minutes; remove it if stale`);
    else {
      if (waits === 10) progress(`waiting for another process that prepares "${name}"`);
      await sleep(200);
    }
  }
  process.on('exit', release);
  try {
    return await work();
  } finally {
    process.off('exit', release);
    release();
  }
}
