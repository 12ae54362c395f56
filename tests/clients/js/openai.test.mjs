// The openai package for JavaScript against a running server. Nothing here depends on which model it serves.
//
// INGLE_BASE_URL   the server, such as http://127.0.0.1:8080/v1 (required)
// INGLE_API_KEY    its key, if it wants one

import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import OpenAI from 'openai';
import { zodFunction, zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const baseURL = process.env.INGLE_BASE_URL?.replace(/\/+$/, '');
assert.ok(baseURL, 'set INGLE_BASE_URL to the server under test, such as http://127.0.0.1:8080/v1');
const apiKey = process.env.INGLE_API_KEY || 'none';

// No retries: a failure that only a second try hides is a failure.
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 120_000 });
const prompt = 'Once upon a time there was a';
const greedy = { temperature: 0, seed: 1 };
const messages = [{ role: 'user', content: prompt }];
let model;

before(async () => {
  model = (await client.models.list()).data[0].id;
});

const chat = (more = {}, options) =>
  client.chat.completions.create({ model, messages, max_tokens: 12, ...greedy, ...more }, options);
const respond = (more = {}) =>
  client.responses.create({ model, input: prompt, max_output_tokens: 12, ...greedy, ...more });

const collect = async (iterable) => {
  const list = [];
  for await (const item of iterable) list.push(item);
  return list;
};

// Models.

test('models', async () => {
  const listed = await collect(client.models.list());
  assert.ok(listed.some((m) => m.id === model && m.object === 'model'));
  const one = await client.models.retrieve(model);
  assert.equal(one.id, model);
  assert.ok(one.created > 0 && one.owned_by);
});

// Chat.

test('chat', async () => {
  const reply = await chat();
  assert.equal(reply.object, 'chat.completion');
  assert.match(reply.id, /^chatcmpl-/);
  assert.ok(reply._request_id, 'the request id is found in the headers');
  assert.equal(reply.choices.length, 1);
  const [choice] = reply.choices;
  assert.equal(choice.message.role, 'assistant');
  assert.equal(typeof choice.message.content, 'string');
  assert.ok(['stop', 'length'].includes(choice.finish_reason));
  assert.equal(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens);
});

test('a streamed chat is the chat', async () => {
  const whole = await chat();
  const chunks = await collect(await chat({ stream: true, stream_options: { include_usage: true } }));
  const last = chunks.pop();
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.completion_tokens, whole.usage.completion_tokens);
  assert.equal(chunks[0].choices[0].delta.role, 'assistant');
  assert.equal(chunks.at(-1).choices[0].finish_reason, whole.choices[0].finish_reason);
  const text = chunks.map((c) => c.choices[0].delta.content ?? '').join('');
  assert.equal(text, whole.choices[0].message.content);
});

test('the helper for streams', async () => {
  const whole = await chat();
  const stream = client.chat.completions.stream({ model, messages, max_tokens: 12, ...greedy });
  let text = '';
  stream.on('content', (delta) => (text += delta));
  const final = await stream.finalChatCompletion();
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(final.choices[0].message.content, text);
});

test('log-probabilities', async () => {
  const reply = await chat({ logprobs: true, top_logprobs: 3, max_tokens: 5 });
  const { content } = reply.choices[0].logprobs;
  assert.ok(content.length > 0 && content.length <= 5);
  for (const token of content) {
    assert.ok(token.logprob <= 0 && token.top_logprobs.length === 3 && Array.isArray(token.bytes));
  }
  const chunks = await collect(await chat({ logprobs: true, top_logprobs: 3, max_tokens: 5, stream: true }));
  assert.deepEqual(chunks.flatMap((c) => c.choices[0].logprobs?.content ?? []), content);
});

test('several choices', async () => {
  const reply = await chat({ n: 3, max_tokens: 4, temperature: 1 });
  assert.deepEqual(reply.choices.map((c) => c.index), [0, 1, 2]);
  const chunks = await collect(await chat({ n: 3, max_tokens: 4, temperature: 1, stream: true }));
  const finished = chunks.filter((c) => c.choices[0].finish_reason).map((c) => c.choices[0].index);
  assert.deepEqual(finished.sort(), [0, 1, 2]);
});

test('concurrent requests', async () => {
  const replies = await Promise.all(Array.from({ length: 4 }, () => chat()));
  assert.equal(new Set(replies.map((r) => r.choices[0].message.content)).size, 1, 'company changes nothing');
});

// Tools. What must be called is, whatever the model knows.

const place = { type: 'object', properties: { place: { type: 'string', enum: ['Oslo', 'Lima'] } }, required: ['place'],
  additionalProperties: false };
const weather = { type: 'function', function: { name: 'get_weather', description: 'The weather.', parameters: place } };
const time = { type: 'function', function: { name: 'get_time', parameters: place, strict: true } };
const asked = { messages: [{ role: 'user', content: 'How is the weather?' }], max_tokens: 200 };
const named = { type: 'function', function: { name: 'get_time' } };

const checkCall = (call, names) => {
  assert.ok(call.id && call.type === 'function' && names.includes(call.function.name), JSON.stringify(call));
  assert.ok(['Oslo', 'Lima'].includes(JSON.parse(call.function.arguments).place));
};

test('tools: required, named, one at a time, streamed, sent back', async () => {
  for (const [tool_choice, names] of [['required', ['get_weather', 'get_time']], [named, ['get_time']]]) {
    const options = { ...asked, tools: [weather, time], tool_choice, parallel_tool_calls: false };
    const [choice] = (await chat(options)).choices;
    assert.equal(choice.finish_reason, 'tool_calls');
    assert.equal(choice.message.tool_calls.length, 1);
    const [call] = choice.message.tool_calls;
    checkCall(call, names);

    const stream = client.chat.completions.stream({ model, ...greedy, ...options });
    const streamed = (await stream.finalMessage()).tool_calls[0];
    assert.deepEqual(streamed.function, { ...call.function, ...parsedBy(streamed) });

    const history = [...asked.messages, choice.message, { role: 'tool', tool_call_id: call.id, content: 'dry' }];
    const after = await chat({ messages: history, tools: [weather, time], max_tokens: 2 });
    assert.equal(after.choices[0].message.role, 'assistant');
  }
});

// Helpers add what they parsed to calls of strict tools.
const parsedBy = ({ function: f }) => ('parsed_arguments' in f ? { parsed_arguments: f.parsed_arguments } : {});

test('tools: auto and none', async () => {
  const plain = (await chat()).choices[0].message.content;
  assert.equal((await chat({ tools: [weather], tool_choice: 'none' })).choices[0].message.content, plain);
  const [auto] = (await chat({ ...asked, tools: [weather], tool_choice: 'auto', max_tokens: 12 })).choices;
  assert.ok(['stop', 'length', 'tool_calls'].includes(auto.finish_reason));
});

test('tools: the helper calls the function', async () => {
  const places = [];
  const look = { name: 'look', parameters: z.object({ place: z.enum(['Oslo', 'Lima']) }),
    function: (found) => places.push(found.place) };
  const runner = client.chat.completions.runTools({ model, ...greedy, ...asked, tools: [zodFunction(look)],
    tool_choice: { type: 'function', function: { name: 'look' } } });
  await runner.done();
  assert.equal(places.length, 1);
  assert.ok(['Oslo', 'Lima'].includes(places[0]));
});

// Structured output.

const Place = z.object({ n: z.number().int().min(0).max(9), ok: z.boolean(), where: z.enum(['here', 'there']) });
const Route = z.object({ from: Place, to: Place.nullable(), stops: z.array(z.enum(['a', 'b'])).max(2) });

test('structured output: zod', async () => {
  for (const [name, schema] of Object.entries({ Place, Route })) {
    const reply = await client.chat.completions.parse({ model, messages, max_tokens: 800, ...greedy,
      response_format: zodResponseFormat(schema, name) });
    const { parsed, content } = reply.choices[0].message;
    assert.deepEqual(schema.parse(JSON.parse(content)), parsed);
    const stream = client.chat.completions.stream({ model, messages, max_tokens: 800, ...greedy,
      response_format: zodResponseFormat(schema, name) });
    assert.deepEqual((await stream.finalMessage()).parsed, parsed);
  }
});

test('structured output: what is cut short is an error', async () => {
  const cut = client.chat.completions.parse({ model, messages, max_tokens: 1, ...greedy,
    response_format: zodResponseFormat(Place, 'place') });
  await assert.rejects(cut, OpenAI.LengthFinishReasonError ?? /length/);
});

// Responses.

test('responses', async () => {
  const response = await respond({ instructions: 'Be brief.' });
  assert.equal(response.object, 'response');
  assert.ok(['completed', 'incomplete'].includes(response.status));
  assert.equal(response.output_text, response.output.at(-1).content.map((p) => p.text).join(''));
  assert.ok(response.usage.output_tokens > 0 && response._request_id);
});

test('responses: a stream\'s events', async () => {
  const whole = await respond();
  const events = await collect(await respond({ stream: true }));
  assert.deepEqual(events.map((e) => e.sequence_number), events.map((_, i) => i));
  const types = events.map((e) => e.type);
  assert.deepEqual(types.slice(0, 4), ['response.created', 'response.in_progress', 'response.output_item.added',
    'response.content_part.added']);
  assert.deepEqual(types.slice(-4), ['response.output_text.done', 'response.content_part.done',
    'response.output_item.done', `response.${whole.status}`]);
  const deltas = events.filter((e) => e.type === 'response.output_text.delta');
  assert.equal(deltas.map((e) => e.delta).join(''), whole.output_text);

  let text = '';
  const stream = client.responses.stream({ model, input: prompt, max_output_tokens: 12, ...greedy });
  stream.on('response.output_text.delta', (event) => (text += event.delta));
  const final = await stream.finalResponse();
  assert.equal(text, whole.output_text);
  assert.equal(final.output_text, text);
});

test('responses: tools and their results', async () => {
  const tools = [{ type: 'function', name: 'get_time', parameters: place, strict: true }];
  const choose = { tools, tool_choice: { type: 'function', name: 'get_time' }, max_output_tokens: 200 };
  const response = await respond(choose);
  const call = response.output.find((item) => item.type === 'function_call');
  assert.ok(['Oslo', 'Lima'].includes(JSON.parse(call.arguments).place));
  const events = await collect(await respond({ ...choose, stream: true }));
  const pieces = events.filter((e) => e.type === 'response.function_call_arguments.delta').map((e) => e.delta);
  assert.equal(pieces.join(''), call.arguments);
  const result = { type: 'function_call_output', call_id: call.call_id, output: 'noon' };
  const after = await respond({ input: [{ role: 'user', content: prompt }, ...response.output, result], tools,
    max_output_tokens: 2 });
  assert.equal(after.object, 'response');
});

test('responses: zod', async () => {
  const response = await client.responses.parse({ model, input: prompt, max_output_tokens: 300, ...greedy,
    text: { format: zodTextFormat(Place, 'place') } });
  assert.deepEqual(Place.parse(JSON.parse(response.output_text)), response.output_parsed);
});

test('responses: stored, continued, deleted', async (t) => {
  const first = await respond({ input: 'My name is Ada.', max_output_tokens: 4 });
  if (!first.store) return t.skip('the server stores no responses');
  const second = await respond({ previous_response_id: first.id, input: 'Who am I?', max_output_tokens: 4 });
  assert.equal(second.previous_response_id, first.id);
  assert.equal((await client.responses.retrieve(first.id)).output_text, first.output_text);
  const items = await collect(client.responses.inputItems.list(second.id));
  assert.deepEqual(items.map((i) => i.content[0].text), ['Who am I?']);
  await client.responses.delete(first.id);
  await assert.rejects(client.responses.retrieve(first.id), OpenAI.NotFoundError);
});

// Completions.

test('completions', async () => {
  const complete = (more = {}) => client.completions.create({ model, prompt, max_tokens: 12, ...greedy, ...more });
  const whole = await complete();
  assert.equal(whole.object, 'text_completion');
  const chunks = await collect(await complete({ stream: true }));
  assert.equal(chunks.map((c) => c.choices[0].text).join(''), whole.choices[0].text);
  const several = await complete({ prompt: [prompt, 'a'], n: 2 });
  assert.deepEqual(several.choices.map((c) => c.index), [0, 1, 2, 3]);
  const { logprobs, text } = (await complete({ logprobs: 2, echo: true })).choices[0];
  assert.ok(text.startsWith(prompt) && logprobs.tokens.length === logprobs.token_logprobs.length);
  assert.equal(logprobs.token_logprobs[0], null);
});

test('embeddings', async (t) => {
  let reply;
  try {
    // The package asks for base64 and decodes it.
    reply = await client.embeddings.create({ model, input: ['a', 'b'] });
  } catch (error) {
    if (error instanceof OpenAI.APIError && [400, 404, 501].includes(error.status)) {
      return t.skip(`the server refuses: ${error.message}`);
    }
    throw error;
  }
  assert.deepEqual(reply.data.map((e) => e.index), [0, 1]);
  for (const { embedding } of reply.data) assert.ok(embedding.length > 0 && embedding.every(Number.isFinite));
});

// Errors.

test('errors have their classes', async () => {
  const refused = async (ask, type, fields) => {
    await assert.rejects(ask, (error) => {
      assert.ok(error instanceof type && error instanceof OpenAI.APIError, `${error}`);
      for (const [name, value] of Object.entries(fields)) assert.equal(error[name], value, `${name}: ${error}`);
      assert.ok(error.message && error.requestID);
      return true;
    });
  };
  await refused(chat({ model: 'no-such-model' }), OpenAI.NotFoundError,
    { status: 404, code: 'model_not_found', param: 'model' });
  await refused(client.models.retrieve('no-such-model'), OpenAI.NotFoundError, { status: 404 });
  await refused(chat({ temperature: -1 }), OpenAI.BadRequestError, { status: 400, param: 'temperature' });
  await refused(chat({ frobnicate: 1 }), OpenAI.BadRequestError, { param: 'frobnicate', code: 'unknown_field' });
  await refused(chat({ stream: true, n: 0 }), OpenAI.BadRequestError, { param: 'n' });
  const { max_model_len } = await client.models.retrieve(model);
  await refused(client.completions.create({ model, prompt: Array(max_model_len + 1).fill(65) }), OpenAI.BadRequestError,
    { code: 'context_length_exceeded' });
  await refused(client.responses.retrieve('resp_none'), OpenAI.NotFoundError, { status: 404 });
  if (apiKey !== 'none') {
    const stranger = new OpenAI({ baseURL, apiKey: 'wrong', maxRetries: 0 });
    await refused(stranger.models.list(), OpenAI.AuthenticationError, { status: 401, code: 'invalid_api_key' });
  }
});

// Leaving.

// Until nothing is computed any more.
const idle = async () => {
  for (let i = 0; i < 100; i++) {
    const health = await (await fetch(`${baseURL.replace(/\/v1$/, '')}/health`)).json();
    if (health.requests.running === 0 && health.requests.waiting === 0) return;
    await sleep(50);
  }
  assert.fail('the server goes on with answers that nobody reads');
};

test('a stream can be left', async () => {
  const long = { stream: true, max_tokens: 500, ignore_eos: true };
  for await (const _ of await chat(long)) break;
  await idle();
  const stream = await chat(long);
  for await (const _ of stream) stream.controller.abort();
  await idle();
  const controller = new AbortController();
  const whole = chat({ max_tokens: 500, ignore_eos: true }, { signal: controller.signal });
  setTimeout(() => controller.abort(), 20);
  await assert.rejects(whole, OpenAI.APIUserAbortError);
  await idle();
  assert.equal((await chat({ max_tokens: 1 })).usage.completion_tokens, 1, 'the server goes on');
});
