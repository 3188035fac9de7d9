import { z } from 'zod';
import { applyConfig, saveConfig } from '../config.ts';
import { type Method, method } from '../method.ts';

/** Methods that write the whole configuration down and bring it back. */

const entry = z.strictObject({
  method: z.string().describe('name of a method'),
  params: z.record(z.string(), z.unknown()).optional().describe('its parameters'),
});

const subsystem = z.looseObject({
  subsystem: z.string().describe('bdev, vhost, ...'),
  config: z.array(entry).nullish().describe('calls in order'),
});

export const configSchema = z.strictObject({
  subsystems: z.array(subsystem).max(256).describe('as save_config gives them'),
});

export type Config = z.output<typeof configSchema>;

export const configMethods: readonly Method[] = [
  method({
    names: ['save_config'],
    summary: 'The calls that make the present configuration, for load_config or `-c FILE`.',
    params: z.strictObject({}),
    result: '{ subsystems: [ { subsystem, config: [ { method, params } ] } ] }',
    handler: (_, { target }) => saveConfig(target),
  }),
  method({
    names: ['load_config'],
    summary:
      'Make the calls of a configuration, in order. Controllers begin to listen when all of them have succeeded. ' +
      'The first failure ends it; what was made until then stays, and the controllers among it do not listen.',
    params: configSchema,
    result: 'true',
    changesConfig: true,
    inConfig: false,
    handler: async (config, context) => {
      await applyConfig(config, context);
      return true;
    },
  }),
  method({
    names: ['framework_get_subsystems', 'get_subsystems'],
    summary: 'The subsystems whose configuration can be asked for.',
    params: z.strictObject({}),
    result: 'array of { subsystem, depends_on }',
    states: 'any',
    handler: () => [
      { subsystem: 'bdev', depends_on: [] },
      { subsystem: 'vhost', depends_on: ['bdev'] },
    ],
  }),
  method({
    names: ['framework_get_config', 'get_subsystem_config'],
    summary: 'The calls that make the configuration of one subsystem.',
    params: z.strictObject({
      name: z.enum(['bdev', 'vhost', 'vhost_scsi', 'vhost_blk']).describe('name of the subsystem'),
    }),
    result: 'array of { method, params }',
    handler: ({ name }, { target }) =>
      saveConfig(target).subsystems.find((s) => s.subsystem === (name === 'bdev' ? 'bdev' : 'vhost'))?.config ?? [],
  }),
];
