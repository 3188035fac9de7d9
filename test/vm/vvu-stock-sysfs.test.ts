/** The same without vIOMMU and VFIO: the devices through sysfs, polled. */
import { vvuStock } from './vvu-stock.ts';

vvuStock({ access: 'sysfs', kinds: ['11'] });
