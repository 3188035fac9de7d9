import { lstatSync, type Stats, unlinkSync } from 'node:fs';
import { isErrnoName, TargetError } from '../target/errors.ts';
import { RpcClient } from './client.ts';

/**
 * May we listen at this path? Removes the socket a dead process left behind, and never one that somebody answers.
 */

/** Bytes of sun_path without its final zero. */
const MAX_PATH = 107;

/** @throws TargetError that says who or what is in the way. */
export async function claimSocketPath(path: string): Promise<void> {
  if (Buffer.byteLength(path) > MAX_PATH) {
    throw new TargetError(
      'EINVAL',
      `RPC socket ${path}: the path is longer than ${MAX_PATH} bytes; choose a shorter one`,
    );
  }
  let stat: Stats | undefined;
  try {
    stat = lstatSync(path, { throwIfNoEntry: false });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new TargetError(
      isErrnoName(code) ? code : 'EINVAL',
      `RPC socket ${path}: ${message}; choose another path (-r)`,
    );
  }
  if (stat === undefined) return;
  if (!stat.isSocket()) {
    throw new TargetError('EEXIST', `RPC socket ${path}: the file is there and is no socket; choose another path (-r)`);
  }
  const owner = await whoAnswers(path);
  if (owner !== undefined) {
    throw new TargetError(
      'EADDRINUSE',
      `RPC socket ${path}: ${owner} answers there; stop it or choose another path (-r)`,
    );
  }
  unlinkSync(path);
}

async function whoAnswers(path: string): Promise<string | undefined> {
  let client: RpcClient;
  try {
    client = await RpcClient.connect(path);
  } catch (error) {
    if ((error as { code?: string }).code === 'ECONNREFUSED') return undefined;
    throw new TargetError(
      'EADDRINUSE',
      `RPC socket ${path}: somebody has it (${(error as Error).message}); choose another path (-r)`,
    );
  }
  try {
    const { pid } = (await client.call('framework_get_reactors', undefined, 1000)) as { pid?: number };
    return pid === undefined ? 'a running target' : `a running target (process ${pid})`;
  } catch {
    return 'another program';
  } finally {
    client.close();
  }
}
