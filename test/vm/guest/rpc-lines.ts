/**
 * Runs in the appliance: several lines of `vvu-target rpc` by one process, because each start of Node costs an emulated CPU seconds. Prints their
 * results as one JSON line.
 *
 * node rpc-lines.js '{"lines": ["get_bdevs"], "seconds": 10, "everyMs": 300}'   again and again for 10 s
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseCall } from '../../../src/cli/actions/rpc.ts';
import { RpcClient } from '../../../src/rpc/client.ts';

export interface RpcLines {
  lines: string[];
  seconds?: number;
  everyMs?: number;
}

const { lines, seconds = 0, everyMs = 500 } = JSON.parse(process.argv[2] as string) as RpcLines;
const client = await RpcClient.connect('/var/tmp/vvu-target.sock');
const results: unknown[] = [];
const end = performance.now() + seconds * 1000;
do {
  for (const line of lines) {
    const [name, ...words] = line.split(' ');
    results.push(await client.call(name as string, parseCall(name as string, words)?.params, 300_000));
    if (seconds > 0) await sleep(everyMs);
  }
} while (performance.now() < end);
client.close();
console.log(`RESULT ${JSON.stringify(results)}`);
