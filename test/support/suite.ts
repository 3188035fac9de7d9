/**
 * The one file that knows the test library. A test file makes suites and runs them:
 * `const test = suite('ring'); test('pops a chain', () => { … }); test.run();`
 */
import { suite as uvuSuite } from 'uvu';
import * as assert from 'uvu/assert';

export { assert };

export const suite = uvuSuite;
