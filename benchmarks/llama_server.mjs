// llama.cpp (as node-llama-cpp ships it) behind as much of the OpenAI API as `sluice bench serve` needs, for
// compare.py: /v1/models, /tokenize and streamed /v1/completions. Requests that come together are computed together, in
// up to SEQUENCES sequences; one that begins like an idle sequence takes that one and computes only what is new.
//
//   PEERS=FOLDER_WITH_NODE_MODULES node llama_server.mjs MODEL.gguf PORT [SEQUENCES] [CONTEXT] [THREADS]
import http from "node:http";
import path from "node:path";

const root = process.env.PEERS ?? process.cwd();
const {getLlama} = await import(path.join(root, "node_modules/node-llama-cpp/dist/index.js"));
const [file, port, sequences = "16", context = "512", threads = "2"] = process.argv.slice(2);
const llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: Number(threads)});
const model = await llama.loadModel({modelPath: file});
const name = path.basename(file, ".gguf");
const ctx = await model.createContext({
    sequences: Number(sequences), contextSize: Number(context), batchSize: 2048, threads: Number(threads)
});
const idle = Array.from({length: Number(sequences)}, () => ctx.getSequence());
const waiting = [];

function commonStart(sequence, ids) {
    const known = sequence.contextTokens;
    let count = 0;
    while (count < known.length && count < ids.length && known[count] === ids[count]) ++count;
    return count;
}

async function takeSequence(ids) {
    if (idle.length === 0) await new Promise(resolve => waiting.push(resolve));
    let best = 0;
    for (let i = 1; i < idle.length; ++i) if (commonStart(idle[i], ids) > commonStart(idle[best], ids)) best = i;
    return idle.splice(best, 1)[0];
}

function giveBack(sequence) {
    idle.push(sequence);
    waiting.shift()?.();
}

async function complete(body, response) {
    const ids = typeof body.prompt === "string" ? model.tokenize(body.prompt) : body.prompt;
    const want = body.max_tokens ?? 16;
    if (ids.length + want > Number(context)) {
        response.writeHead(400, {"Content-Type": "application/json"});
        response.end(JSON.stringify({error: {message: `${ids.length + want} tokens are more than ${context}`}}));
        return;
    }
    const sequence = await takeSequence(ids);
    let count = 0, text = "";
    try {
        const kept = Math.min(commonStart(sequence, ids), ids.length - 1);
        if (sequence.contextTokens.length > kept) {
            await sequence.eraseContextTokenRanges([{start: kept, end: sequence.contextTokens.length}]);
        }
        if (body.stream) response.writeHead(200, {"Content-Type": "text/event-stream"});
        for await (const token of sequence.evaluate(ids.slice(kept), {temperature: 0, yieldEogToken: true})) {
            const piece = model.detokenize([token]);
            text += piece;
            ++count;
            if (body.stream) response.write(`data: ${JSON.stringify({choices: [{index: 0, text: piece}]})}\n\n`);
            if (count >= want || (!body.ignore_eos && model.isEogToken(token))) break;
        }
    } finally {
        giveBack(sequence);
    }
    const usage = {prompt_tokens: ids.length, completion_tokens: count, total_tokens: ids.length + count};
    if (body.stream) response.end(`data: ${JSON.stringify({choices: [], usage})}\n\ndata: [DONE]\n\n`);
    else response.end(JSON.stringify({choices: [{index: 0, text}], usage}));
}

http.createServer(async (request, response) => {
    try {
        if (request.url === "/v1/models") {
            response.end(JSON.stringify({data: [{id: name, max_model_len: Number(context)}]}));
            return;
        }
        let text = "";
        for await (const piece of request) text += piece;
        const body = JSON.parse(text);
        if (request.url === "/tokenize") {
            response.end(JSON.stringify({tokens: model.tokenize(body.prompt)}));
        } else if (request.url === "/v1/completions") {
            await complete(body, response);
        } else {
            response.writeHead(404).end();
        }
    } catch (error) {
        if (!response.headersSent) response.writeHead(500);
        response.end(JSON.stringify({error: {message: String(error)}}));
    }
}).listen(Number(port), "127.0.0.1");
