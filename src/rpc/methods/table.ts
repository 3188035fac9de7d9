import { MethodTable } from '../method.ts';
import { appMethods } from './app.ts';
import { bdevMethods } from './bdev.ts';
import { configMethods } from './config.ts';
import { deviceMethods } from './devices.ts';
import { logMethods } from './log.ts';
import { vhostMethods } from './vhost.ts';

/** All methods, in the order in which docs/rpc.md shows them. A new group of methods adds its line. */
export const methodTable = new MethodTable([
  ...bdevMethods,
  ...deviceMethods,
  ...vhostMethods,
  ...appMethods,
  ...configMethods,
  ...logMethods,
]);
