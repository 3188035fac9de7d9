import { z } from 'zod';
import { formatCpuMask } from '../../target/cpu-mask.ts';
import { TargetError } from '../../target/errors.ts';
import { type Method, method } from '../method.ts';

/** Methods about the target as a process: its methods, version, states, reactors, end. */

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGQUIT', 'SIGHUP', 'SIGKILL', 'SIGUSR1'] as const;

export const appMethods: readonly Method[] = [
  method({
    names: ['rpc_get_methods', 'get_rpc_methods'],
    summary: 'List the methods.',
    params: z.strictObject({
      current: z.boolean().optional().describe('only those that may be called in the present state'),
      include_aliases: z.boolean().optional().describe('also the older names (default true)'),
    }),
    result: 'array of names',
    states: 'any',
    handler: ({ current, include_aliases }, { methods, app }) => {
      const state = app.initialized ? 'runtime' : 'startup';
      return methods.rows
        .filter((row) => !current || row.states === 'any' || row.states === state)
        .flatMap((row) => (include_aliases === false ? row.names.slice(0, 1) : [...row.names]));
    },
  }),
  method({
    names: ['spdk_get_version', 'get_spdk_version'],
    summary: 'The version of the target.',
    params: z.strictObject({}),
    result: '{ version, fields: { major, minor, patch, suffix } }',
    states: 'any',
    handler: (_, { app }) => {
      const [numbers = '', suffix = ''] = app.version.split(/-(.*)/s);
      const [major = 0, minor = 0, patch = 0] = numbers.split('.').map(Number);
      return { version: `vvu-target v${app.version}`, fields: { major, minor, patch, suffix } };
    },
  }),
  method({
    names: ['spdk_kill_instance', 'kill_instance'],
    summary:
      'Send the target a signal. SIGINT, SIGTERM, SIGQUIT and SIGHUP end it in an orderly way; SIGUSR1 opens the inspector.',
    params: z.strictObject({
      sig_name: z.union([z.enum(SIGNALS), z.int()]).describe(`one of ${SIGNALS.join(', ')}, or its number`),
    }),
    result: 'true',
    states: 'any',
    handler: ({ sig_name }, { app }) => {
      const signal = typeof sig_name === 'number' ? signalNamed(sig_name) : sig_name;
      if (signal === 'SIGKILL' || signal === 'SIGUSR1') setImmediate(() => process.kill(process.pid, signal));
      else app.shutDown(`spdk_kill_instance ${signal}`);
      return true;
    },
  }),
  method({
    names: ['framework_start_init', 'start_subsystem_init'],
    summary: 'Go on with the start after --wait-for-rpc.',
    params: z.strictObject({}),
    result: 'true',
    states: 'startup',
    handler: async (_, { app }) => {
      await app.startInit();
      return true;
    },
  }),
  method({
    names: ['framework_wait_init', 'wait_subsystem_init'],
    summary: 'Wait until the target is initialized.',
    params: z.strictObject({}),
    result: 'true',
    states: 'any',
    handler: async (_, { app }) => {
      await app.waitInit();
      return true;
    },
  }),
  method({
    names: ['framework_get_reactors'],
    summary: 'The reactors: how busy they are, how often they slept, what they hold.',
    params: z.strictObject({}),
    result: '{ tick_rate, pid, reactors: [ { lcore, busy, idle, ... } ] }',
    states: 'any',
    handler: async (_, { target }) => ({
      tick_rate: 1_000_000_000,
      pid: process.pid,
      reactors: (await target.reactorStats()).map(({ cpu, stats, controllers }) => ({
        lcore: cpu,
        busy: Math.round(stats.busyNs),
        idle: Math.round(stats.idleNs),
        in_interrupt: true,
        passes: stats.passes,
        sleeps: stats.sleeps,
        wakes: stats.wakes,
        handler_errors: stats.errors,
        heap_used: stats.heapUsed,
        channels: stats.channels,
        lw_threads: controllers.map((name) => ({ name, cpumask: formatCpuMask([cpu]) })),
      })),
    }),
  }),
  method({
    names: ['thread_get_stats'],
    summary: 'The same numbers in the shape of SPDK threads: one a reactor.',
    params: z.strictObject({}),
    result: '{ tick_rate, threads: [ { name, id, cpumask, busy, idle } ] }',
    handler: async (_, { target }) => ({
      tick_rate: 1_000_000_000,
      threads: (await target.reactorStats()).map(({ cpu, stats }, i) => ({
        name: `reactor_${cpu}`,
        id: i + 1,
        cpumask: formatCpuMask([cpu]),
        busy: Math.round(stats.busyNs),
        idle: Math.round(stats.idleNs),
      })),
    }),
  }),
];

const NUMBERS: Readonly<Record<number, (typeof SIGNALS)[number]>> = {
  1: 'SIGHUP',
  2: 'SIGINT',
  3: 'SIGQUIT',
  9: 'SIGKILL',
  10: 'SIGUSR1',
  15: 'SIGTERM',
};

function signalNamed(number: number): (typeof SIGNALS)[number] {
  const name = NUMBERS[number];
  if (name === undefined) throw new TargetError('EINVAL', `signal ${number}: expected one of ${SIGNALS.join(', ')}`);
  return name;
}
