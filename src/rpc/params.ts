import type { z } from 'zod';
import { RpcCode, RpcError } from './errors.ts';
import type { Method } from './method.ts';
import { dropNeutral } from './spdk-params.ts';
import { nearest } from './suggest.ts';

/**
 * Parameters against a method's schema. A refusal names the parameter, what was expected and what came, one sentence
 * for each mistake.
 */

type Issue = z.core.$ZodIssue;

/** @throws RpcError INVALID_PARAMS */
export function parseParams(method: Method, name: string, raw: unknown): unknown {
  const given = raw ?? {};
  if (typeof given !== 'object' || Array.isArray(given)) {
    throw invalid(name, [`parameters are an object of names and values, not ${show(raw)}`]);
  }
  // rpc.py of some versions sends null for what was not given.
  const present = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null));
  const known = Object.keys(method.params.shape);
  const { rest, refused } = dropNeutral(present, known);
  const parsed = method.params.safeParse(rest);
  if (parsed.success && refused.length === 0) return parsed.data;
  const mistakes = parsed.success ? [] : parsed.error.issues.flatMap((issue) => sentences(issue, rest, known));
  throw invalid(name, [...refused, ...mistakes]);
}

function invalid(name: string, what: string[]): RpcError {
  return new RpcError(RpcCode.INVALID_PARAMS, `Invalid parameters: ${name}: ${what.join('; ')}`);
}

function sentences(issue: Issue, given: Record<string, unknown>, known: string[]): string[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => {
      const near = nearest(
        key,
        known.filter((k) => !Object.hasOwn(given, k)),
      );
      const hint =
        near !== undefined ? `did you mean "${near}"?` : known.length > 0 ? `known are ${known.join(', ')}` : '';
      return `unknown parameter "${clip(key)}"${hint === '' ? ' (the method has none)' : `; ${hint}`}`;
    });
  }
  const where = issue.path.map((step) => (typeof step === 'number' ? `[${step}]` : String(step))).join('.');
  const value = at(given, issue.path);
  if (value === undefined) return [`"${where}" is missing: expected ${expected(issue)}`];
  return [`"${where}" must be ${expected(issue)}, not ${show(value)}`];
}

function expected(issue: Issue): string {
  switch (issue.code) {
    case 'invalid_type':
      return WORDS[issue.expected] ?? `a ${issue.expected}`;
    case 'invalid_value':
      return `one of ${issue.values.map(String).join(', ')}`;
    case 'too_small':
      return issue.origin === 'string'
        ? `a text of at least ${issue.minimum} character(s)`
        : `${issue.inclusive === false ? 'more than' : 'at least'} ${issue.minimum}`;
    case 'too_big':
      return issue.origin === 'string' ? `a text of at most ${issue.maximum} characters` : `at most ${issue.maximum}`;
    case 'not_multiple_of':
      return `a multiple of ${issue.divisor}`;
    case 'invalid_union':
      return [...new Set(issue.errors.flat().map(expected))].join(' or ');
    default:
      // Schemas give their own words for patterns and refinements: .regex(…, 'a UUID').
      return issue.message;
  }
}

const WORDS: Record<string, string> = {
  string: 'a text',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  object: 'an object',
  array: 'an array',
};

function at(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>((v, step) => (v as Record<PropertyKey, unknown> | undefined)?.[step], value);
}

function clip(text: string): string {
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
}

function show(value: unknown): string {
  return clip(JSON.stringify(value) ?? String(value));
}
