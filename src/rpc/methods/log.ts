import { z } from 'zod';
import { type Method, method } from '../method.ts';

/** Methods that switch log lines on and off while the target runs. A flag is a layer: "vhost" is DEBUG=vvu:vhost. */

const flag = z.strictObject({
  flag: z
    .string()
    .regex(/^[a-z0-9:*-]{1,40}$/, 'the name of a layer, as log_get_flags lists them, or "all"')
    .describe('name of a layer (log_get_flags), or "all"'),
});

export const logMethods: readonly Method[] = [
  method({
    names: ['log_get_flags', 'get_log_flags'],
    summary: 'The layers that can log, and which of them do.',
    params: z.strictObject({}),
    result: 'object: layer to true or false',
    states: 'any',
    handler: (_, { target }) => target.logs.flags(),
  }),
  method({
    names: ['log_set_flag', 'set_log_flag'],
    summary: 'Let a layer log, on all threads.',
    params: flag,
    result: 'true',
    states: 'any',
    inConfig: true,
    handler: async (p, { target }) => {
      await target.logs.set(p.flag, true);
      return true;
    },
  }),
  method({
    names: ['log_clear_flag', 'clear_log_flag'],
    summary: 'Let a layer be silent, on all threads.',
    params: flag,
    result: 'true',
    states: 'any',
    inConfig: true,
    handler: async (p, { target }) => {
      await target.logs.set(p.flag, false);
      return true;
    },
  }),
];
