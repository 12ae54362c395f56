// The examples in JavaScript, as their readers run them.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { copyFile, mkdir } from 'node:fs/promises';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const baseURL = process.env.INGLE_BASE_URL?.replace(/\/+$/, '');
const env = { ...process.env, OPENAI_BASE_URL: baseURL, OPENAI_API_KEY: process.env.INGLE_API_KEY || 'none' };

// From where packages are found.
const folder = new URL('node_modules/.examples/', import.meta.url);

const run = async (name) => {
  await mkdir(folder, { recursive: true });
  const copy = new URL(name, folder);
  await copyFile(new URL(`../../../examples/${name}`, import.meta.url), copy);
  const { stdout } = await promisify(execFile)(process.execPath, [fileURLToPath(copy)], { env, timeout: 120_000 });
  return stdout;
};

test('openai_stream.mjs', async () => {
  const out = await run('openai_stream.mjs');
  const [, streamed, parsed] = out.match(/^streamed: (.+)\nparsed: (.+)\n$/s) ?? assert.fail(out);
  assert.ok(streamed.trim());
  const { number, status } = JSON.parse(parsed);
  assert.ok(Number.isInteger(number) && ['Draft', 'Active', 'Final'].includes(status));
});
