// A stream that is read piece by piece, and a schema written in zod. Needs: npm install openai zod

import OpenAI from 'openai';
import { zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? 'http://127.0.0.1:8080/v1',
  apiKey: process.env.OPENAI_API_KEY ?? 'none',
});
const messages = [{ role: 'user', content: 'What is a PEP?' }];

process.stdout.write('streamed: ');
const stream = await client.chat.completions.create({ model: 'default', messages, max_tokens: 100, stream: true });
for await (const chunk of stream) process.stdout.write(chunk.choices[0].delta.content ?? '');
process.stdout.write('\n');

const Pep = z.object({ number: z.number().int().min(1).max(9999), status: z.enum(['Draft', 'Active', 'Final']) });
const reply = await client.chat.completions.parse({
  model: 'default',
  messages: [{ role: 'user', content: 'Give me PEP 703 as JSON.' }],
  response_format: zodResponseFormat(Pep, 'pep'),
  max_tokens: 100,
});
console.log('parsed:', JSON.stringify(reply.choices[0].message.parsed));
