// The official OpenAI client against the built binary, serving the built-in model.
// Usage: node openai_client.mjs SLUICE_BINARY FOLDER_WITH_NODE_MODULES
import assert from "node:assert/strict";
import {spawn} from "node:child_process";
import {existsSync} from "node:fs";
import {createRequire} from "node:module";
import {createServer} from "node:net";
import path from "node:path";

const [binary, clients] = process.argv.slice(2);
if (!existsSync(path.join(clients, "node_modules/openai"))) {
    console.log("SKIPPED: the openai npm client is not installed (./dev test installs it where npm works)");
    process.exit(77);
}
const require = createRequire(path.join(path.resolve(clients), "package.json"));
const OpenAI = require("openai");

const port = await new Promise(resolve => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
        const {port} = probe.address();
        probe.close(() => resolve(port));
    });
});
const base = `http://127.0.0.1:${port}`;
const server = spawn(binary, ["serve", "--port", String(port), "--api-key", "right", "--log-level", "warning"],
    {stdio: ["ignore", "inherit", "inherit"]});
const stopped = new Promise(resolve => server.on("exit", (code, signal) => resolve({code, signal})));
const client = new OpenAI({baseURL: base + "/v1", apiKey: "right", maxRetries: 0});
const metric = async name => {
    const reply = await fetch(base + "/metrics", {headers: {authorization: "Bearer right"}});
    const line = (await reply.text()).split("\n").find(line => line.startsWith(name));
    return line === undefined ? NaN : Number(line.split(" ").pop());
};
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

const STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.";
const tests = {
    "models": async () => {
        const models = [];
        for await (const model of client.models.list()) models.push(model.id);
        assert.equal(models.length, 1);
        assert.equal((await client.models.retrieve(models[0])).id, models[0]);
    },
    "completion": async () => {
        const reply = await client.completions.create({model, prompt: "Once upon", max_tokens: 60, temperature: 0});
        assert.equal(reply.object, "text_completion");
        assert.ok(("Once upon" + reply.choices[0].text).startsWith(STORY), reply.choices[0].text);
        assert.equal(reply.choices[0].finish_reason, "length");
        assert.equal(reply.usage.completion_tokens, 60);
    },
    "completion, streamed, equals the whole one": async () => {
        const ask = {model, prompt: "Once upon", max_tokens: 100, temperature: 0};
        const whole = await client.completions.create(ask);
        let text = "", usage = null, finish = null, chunks = 0;
        const stream = await client.completions.create({...ask, stream: true, stream_options: {include_usage: true}});
        for await (const chunk of stream) {
            ++chunks;
            usage = chunk.usage ?? usage;
            text += chunk.choices[0]?.text ?? "";
            finish = chunk.choices[0]?.finish_reason ?? finish;
        }
        assert.equal(text, whole.choices[0].text);
        assert.equal(finish, "length");
        assert.equal(usage.completion_tokens, 100);
        assert.ok(chunks > 20);
    },
    "chat": async () => {
        const reply = await client.chat.completions.create(
            {model, messages: [{role: "user", content: "Once upon a time"}], max_tokens: 20, temperature: 0});
        assert.equal(reply.object, "chat.completion");
        assert.equal(reply.choices[0].message.role, "assistant");
        assert.ok(reply.choices[0].message.content.length > 10);
        assert.equal(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens);
    },
    "chat, streamed": async () => {
        const stream = await client.chat.completions.create(
            {model, messages: [{role: "user", content: "Once upon a time"}], max_tokens: 20, temperature: 0, stream: true});
        let text = "", first = null, finish = null;
        for await (const chunk of stream) {
            first ??= chunk.choices[0].delta;
            text += chunk.choices[0].delta.content ?? "";
            finish = chunk.choices[0].finish_reason ?? finish;
        }
        assert.equal(first.role, "assistant");
        assert.equal(finish, "length");
        assert.ok(text.length > 10);
    },
    "n with a seed": async () => {
        const ask = {model, prompt: "The dog", max_tokens: 12, temperature: 1, n: 3, seed: 7};
        const a = await client.completions.create(ask), b = await client.completions.create(ask);
        assert.deepEqual(a.choices.map(c => c.index), [0, 1, 2]);
        assert.deepEqual(a.choices.map(c => c.text), b.choices.map(c => c.text));
        assert.ok(new Set(a.choices.map(c => c.text)).size > 1);
    },
    "logprobs": async () => {
        const reply = await client.completions.create({model, prompt: "Once", max_tokens: 4, temperature: 0, logprobs: 3});
        const {tokens, token_logprobs, top_logprobs, text_offset} = reply.choices[0].logprobs;
        assert.equal(tokens.length, 4);
        assert.equal(tokens.join(""), reply.choices[0].text);
        token_logprobs.forEach((logprob, i) => assert.equal(logprob, Math.max(...Object.values(top_logprobs[i]))));
        assert.equal(text_offset.length, 4);
        const chat = await client.chat.completions.create({model, messages: [{role: "user", content: "Once"}], max_tokens: 3,
            temperature: 0, logprobs: true, top_logprobs: 2});
        for (const item of chat.choices[0].logprobs.content) {
            assert.equal(item.top_logprobs.length, 2);
            assert.deepEqual(Buffer.from(item.bytes).toString(), item.token);
        }
    },
    "echo scores a prompt of token ids": async () => {
        const reply = await client.completions.create(
            {model, prompt: [1, 403, 407, 261, 378], max_tokens: 0, echo: true, logprobs: 1});
        const {token_logprobs} = reply.choices[0].logprobs;
        assert.equal(token_logprobs.length, 5);
        assert.equal(token_logprobs[0], null);
        assert.ok(token_logprobs.slice(1).every(x => x < 0));
    },
    "stop strings": async () => {
        const reply = await client.completions.create({model, prompt: "Once upon a time", max_tokens: 200, temperature: 0,
            stop: ["Lily", "zebra"]});
        assert.equal(reply.choices[0].finish_reason, "stop");
        assert.ok(!reply.choices[0].text.includes("Lily"));
        assert.ok(reply.choices[0].text.endsWith("named "));
    },
    "abort mid-stream frees the engine": async () => {
        const controller = new AbortController();
        const stream = await client.completions.create(
            {model, prompt: "Once", max_tokens: 1500, ignore_eos: true, stream: true, n: 8}, {signal: controller.signal});
        let seen = 0;
        for await (const _ of stream) if (++seen === 5) break;
        controller.abort();
        for (let i = 0; i < 100 && await metric("vllm:num_requests_running") !== 0; ++i) await sleep(20);
        assert.equal(await metric("vllm:num_requests_running"), 0);
        assert.equal(await metric("vllm:kv_cache_usage_perc"), 0);
    },
    "wrong key": async () => {
        const stranger = new OpenAI({baseURL: base + "/v1", apiKey: "wrong", maxRetries: 0});
        await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
        assert.equal((await fetch(base + "/tokenize", {method: "POST", body: "{}"})).status, 401);
        assert.equal((await fetch(base + "/health")).status, 200);
    },
    "wrong model": async () => {
        await assert.rejects(client.completions.create({model: "nobody", prompt: "x"}), error => {
            assert.ok(error instanceof OpenAI.NotFoundError);
            assert.match(error.message, /nobody/);
            return true;
        });
    },
    "bad values name the field": async () => {
        for (const [field, value] of [["temperature", "hot"], ["max_tokens", -1], ["top_p", 7], ["n", 0], ["logprobs", 1e9]]) {
            await assert.rejects(client.completions.create({model, prompt: "x", [field]: value}), error => {
                assert.ok(error instanceof OpenAI.BadRequestError, String(error));
                assert.match(error.message, new RegExp(field));
                return true;
            });
        }
    },
    "a prompt too long gives both numbers": async () => {
        await assert.rejects(client.completions.create({model, prompt: "word ".repeat(5000)}), error => {
            assert.ok(error instanceof OpenAI.BadRequestError);
            assert.equal(error.message.match(/\d{3,}/g).length >= 2, true, error.message);
            return true;
        });
    },
};

let model = null, failed = 0, passed = 0;
try {
    for (let i = 0; ; ++i) {
        const ok = await fetch(base + "/ready").then(reply => reply.status === 200 || reply.status === 401).catch(() => false);
        if (ok) break;
        assert.ok(i < 200 && server.exitCode === null, "the server did not start");
        await sleep(50);
    }
    model = (await client.models.list()).data[0].id;
    for (const [name, test] of Object.entries(tests)) {
        try {
            await test();
            ++passed;
            console.log(`ok      ${name}`);
        } catch (error) {
            ++failed;
            console.log(`FAILED  ${name}\n${error.stack}`);
        }
    }
} finally {
    server.kill("SIGTERM");
}
const {code} = await stopped;
if (code !== 0) {
    ++failed;
    console.log(`FAILED  the server ended with ${code} after SIGTERM`);
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
