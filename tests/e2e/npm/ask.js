// Calls a gateway as applications do, and prints what came of it as one JSON object. The test judges.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.API_KEY, maxRetries: 0 });
const messages = [{ role: "user", content: "hello" }];
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } } }];
const found = {};

const whole = await client.chat.completions.create({ model: "chat", messages });
found.chat = whole.choices[0].message.content;
found.total_tokens = whole.usage.total_tokens;

found.streamed = "";
for await (const part of await client.chat.completions.create({ model: "chat", messages, stream: true })) {
  found.streamed += part.choices[0].delta.content ?? "";
}

const { response } = await client.chat.completions.create({ model: "chat", messages }).withResponse();
found.backend = response.headers.get("x-headgate-backend");

const tool_choice = { type: "function", function: { name: "weather" } };
const called = await client.chat.completions.create({ model: "tools", messages, tools, tool_choice });
found.tool = called.choices[0].message.tool_calls[0].function;

const runner = client.chat.completions.stream({ model: "tools", messages, tools, tool_choice });
found.tool_streamed = (await runner.finalChatCompletion()).choices[0].message.tool_calls[0].function;

found.models = [];
for await (const model of client.models.list()) found.models.push(model.id);
found.model = (await client.models.retrieve("chat")).id;

found.errors = {};
for (const model of ["unknown", "full", "broken"]) {
  try {
    await client.chat.completions.create({ model, messages });
  } catch (error) {
    found.errors[model] = [error.constructor.name, error.status, error.code, error.requestID === error.headers.get("x-request-id")];
  }
}
try {
  for await (const part of await client.chat.completions.create({ model: "dies", messages, stream: true })) {
    found.died_after = part.choices[0].delta.content;
  }
} catch (error) {
  found.errors.dies = error.message;
}

console.log(JSON.stringify(found));
