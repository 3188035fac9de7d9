/**
 * The one file that knows the test library. A test file makes suites and runs them:
 * `const test = suite('ring'); test('pops a chain', () => { … }); test.run();`
 */
import { suite as uvuSuite } from 'uvu';
import * as assert from 'uvu/assert';

export { assert };

export const suite = uvuSuite;

/** Runs it and says at once what goes wrong: uvu keeps the failures of tests to the end, and says nothing of a hook's. */
export async function saying<T>(body: () => Promise<T>, more: () => string = () => ''): Promise<T> {
  try {
    return await body();
  } catch (error) {
    console.log(error, more());
    throw error;
  }
}
