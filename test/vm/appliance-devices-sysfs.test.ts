import { applianceDevices } from './appliance-devices.ts';

applianceDevices('sysfs');
